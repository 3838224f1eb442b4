"""Weights that exist only in the git history are extracted byte for byte, and the checkout gets nothing else."""

import subprocess
from pathlib import Path

import pytest
from torch import nn

from benchmarks import fetch_weights
from fewstep.export import ScheduleSpec, Spec
from tests.refusals import refuses
from zoo.denoising import Trained
from zoo.members import FOLDER

STORED = fetch_weights.parse_listing(fetch_weights.LIST.read_text())
MOST = 64_000_000  # bytes of a checkout


def git(folder: Path, *arguments: str) -> str:
    command = ["git", "-c", "user.name=a", "-c", "user.email=a@b", *arguments]
    return subprocess.run(command, cwd=folder, check=True, capture_output=True, text=True).stdout


@pytest.fixture
def clone(tmp_path: Path) -> tuple[Path, dict[str, str]]:
    """A clone whose history has a file that its last commit lacks."""
    git(tmp_path, "init", "-q")
    (tmp_path / "large").write_bytes(bytes(range(256)))
    git(tmp_path, "add", "large")
    git(tmp_path, "commit", "-qm", "add")
    blob = git(tmp_path, "rev-parse", "HEAD:large").strip()
    git(tmp_path, "rm", "-q", "large")
    git(tmp_path, "commit", "-qm", "remove")
    return tmp_path, fetch_weights.parse_listing(f"{blob} large\n")


def test_a_file_of_the_history_comes_back_byte_for_byte(clone: tuple[Path, dict[str, str]]) -> None:
    root, stored = clone
    assert fetch_weights.fetch_weights(root, stored) == [root / "large"]
    assert (root / "large").read_bytes() == bytes(range(256))


def test_a_file_that_is_there_is_left_alone(clone: tuple[Path, dict[str, str]]) -> None:
    root, stored = clone
    (root / "large").write_bytes(b"trained again")
    assert fetch_weights.fetch_weights(root, stored) == []
    assert (root / "large").read_bytes() == b"trained again"


def test_a_history_without_the_file_is_refused(clone: tuple[Path, dict[str, str]]) -> None:
    with refuses("other", "in a clone"):
        fetch_weights.fetch_weights(clone[0], {"other": "0" * 40})
    assert not (clone[0] / "other").exists()


def test_weights_that_are_missing_are_named_with_the_command_that_fetches_them(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.syspath_prepend(FOLDER)
    absent = Trained(str(tmp_path / "absent.py"), nn.Identity, Spec("absent", (1,), (), "flow", ScheduleSpec("flow")))
    with refuses("absent.safetensors", "python -m benchmarks.fetch_weights"):
        absent()


def test_stored_weights_are_ignored_by_git() -> None:
    ignored = (fetch_weights.ROOT / ".gitignore").read_text().splitlines()
    assert {f"/{path}" for path in STORED} <= set(ignored)


def test_a_checkout_is_below_its_limit() -> None:
    root = fetch_weights.ROOT
    if not (root / ".git").exists():
        pytest.skip("this folder is no clone")
    files = git(root, "ls-files", "-z").split("\0")
    assert sum((root / file).stat().st_size for file in files if file and (root / file).is_file()) < MOST
