"""The folders for a lent GPU: each is below the size limit, and the script runs the command once all are stored."""

import os
import subprocess
import sys
import tarfile
from dataclasses import replace
from pathlib import Path

import pytest

from benchmarks.lease import payload
from benchmarks.lease.items import ITEMS, Item
from benchmarks.lease.payload import Folder, write_payload
from fewstep.plans.errors import UserError
from tests.refusals import refuses

SIZE = 6_000_000  # bytes of a file
LIMIT = 2 * SIZE - 100_000  # bytes of a folder


def make(work: Path, output: Path, data: Path | None) -> None:
    """Two files that do not fit into one folder, each larger than the text of the tree."""
    for name in ("first", "second"):
        (output / "numbers").mkdir(parents=True, exist_ok=True)
        (output / "numbers" / name).write_bytes(os.urandom(SIZE))


PRINTS = """$PYTHON -c "
import fewstep.plans.plan, benchmarks.options, pathlib, sys
print(pathlib.Path(fewstep.plans.plan.__file__).resolve(), *(path.stat().st_size for path in sorted(
    pathlib.Path(sys.argv[1]).iterdir())))" "$FILES/numbers" > "$OUT/printed.txt" """
ITEM = Item(PRINTS, f'{PRINTS}; echo rehearsed >> "$OUT/printed.txt"', "none", wheels=(), make=make)


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> list[Folder]:
    folder = tmp_path_factory.mktemp("lease")
    return list(write_payload(ITEM, folder / "out", folder / "work", LIMIT, "3.12", 90))


def run(folder: Folder, to: Path, **variables: str) -> str:
    environment = {**os.environ, "PYTHON": sys.executable, "WORK": str(to / "kept"), **variables}
    command = ["bash", str(folder.path / "run.sh"), str(to / "results")]
    return subprocess.run(command, check=True, capture_output=True, text=True, env=environment).stdout


@pytest.mark.slow
def test_each_folder_is_below_the_limit(folders: list[Folder]) -> None:
    assert len(folders) == 2 and all(SIZE < folder.size < LIMIT for folder in folders)


@pytest.mark.slow
def test_the_last_folder_runs_the_command_with_all_files_and_the_tree(folders: list[Folder], tmp_path: Path) -> None:
    first, last = folders
    assert run(first, tmp_path) == "stored; run the other folders of the item too\n"
    assert run(last, tmp_path) == ""
    place, *sizes = (tmp_path / "results/printed.txt").read_text().split()
    (payload,) = (tmp_path / "kept").iterdir()  # another payload has another folder, and never this tree
    assert Path(place) == (payload / "tree/plans/plan.py").resolve() and sizes == [str(SIZE)] * 2
    run(last, tmp_path, REHEARSE="1")
    assert (tmp_path / "results/printed.txt").read_text().endswith("rehearsed\n")


def test_a_folder_with_other_files_is_refused_and_kept(tmp_path: Path) -> None:
    (tmp_path / "part-1").mkdir()
    (tmp_path / "results.jsonl").write_text("{}")
    with refuses("results.jsonl", "empty or a new folder"):
        write_payload(ITEM, tmp_path, tmp_path / "work", LIMIT, "3.12", 90)
    assert (tmp_path / "results.jsonl").read_text() == "{}" and (tmp_path / "part-1").is_dir()


def test_a_source_has_the_text_of_the_tree_and_no_folder_of_another_item(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    names = ("code.py", "weights.safetensors", "lease/part-1/files/made-00.tar", "lease/part-1/files/source.tar.xz")
    for name in names:
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text("1")
    subprocess.run(["git", "init", "-q", tmp_path], check=True)
    monkeypatch.setattr(payload, "ROOT", tmp_path)
    payload._pack_source(ITEM, tmp_path / "packed")
    with tarfile.open(tmp_path / "packed") as archive:
        assert archive.getnames() == ["code.py"]


@pytest.mark.slow
def test_a_file_above_the_limit_is_named(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"made-00.tar has 5.7 MiB; raise --limit"):
        write_payload(ITEM, tmp_path / "out", tmp_path / "work", SIZE - 100_000, "3.12", 90)


@pytest.mark.parametrize("name", ITEMS)
def test_the_commands_are_bash(name: str, tmp_path: Path) -> None:
    for text in (ITEMS[name].command, ITEMS[name].rehearsal):
        subprocess.run(["bash", "-n", "-c", text], check=True)
    assert replace(ITEMS[name], make=None).weights == ITEMS[name].weights
