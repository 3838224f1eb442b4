"""The check of a folder of `fewstep bake --parts`."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from fewstep.graph.bake.options import BakeOptions
from fewstep.graph.bake.parts.write_parts import write_parts
from fewstep.report.parts_integrity import verify_parts
from tests.refusals import refuses


@pytest.fixture
def folder(tiny_bundle: Path, tmp_path: Path) -> Path:
    write_parts(BakeOptions(tiny_bundle, "ddim:3", tmp_path / "run", parts=True, batch=2))
    return tmp_path / "run"


def change_description(folder: Path, change: Callable[[dict[str, Any]], object]) -> None:
    about = json.loads((folder / "run.json").read_text())
    change(about)
    (folder / "run.json").write_text(json.dumps(about))


def test_a_written_folder_is_intact(folder: Path) -> None:
    found = verify_parts(folder)
    assert (found.damages, found.notes, found.files, found.graphs) == ((), (), 3, 3)


def test_a_missing_file_is_a_damage(folder: Path) -> None:
    (folder / "step-0.onnx").unlink()
    assert [damage.what for damage in verify_parts(folder).damages] == [f"{folder / 'step-0.onnx'} is missing"]


def test_a_folder_of_an_older_version_has_no_hashes(folder: Path) -> None:
    change_description(folder, lambda about: about.pop("sha256"))
    found = verify_parts(folder)
    assert found.is_whole and found.notes == ("run.json has no hashes: an older version baked the folder",)


def test_a_graph_that_cannot_be_loaded_is_a_damage(folder: Path) -> None:
    change_description(folder, lambda about: about.pop("sha256"))
    (folder / "after.onnx").write_bytes(b"other")
    (damage,) = verify_parts(folder).damages
    assert "cannot load" in damage.what and "after.onnx" in damage.what


def test_a_row_that_is_not_finite_is_a_damage(folder: Path) -> None:
    def set_large(about: dict[str, Any]) -> None:
        kind = about["steps"][0]
        is_float = [port["dtype"] == "float32" for port in kind["row_inputs"]]
        row = zip(kind["rows"][0], is_float, strict=True)
        kind["rows"][0] = [[1e39] * len(flat) if floats else flat for flat, floats in row]

    change_description(folder, set_large)
    assert "returns NaN or infinity" in verify_parts(folder).damages[0].what


@pytest.mark.parametrize(
    "change",
    [
        lambda about: about["steps"].clear(),
        lambda about: about["steps"][0]["rows"].clear(),
        lambda about: about["steps"][0]["rows"][0].pop(),
        lambda about: about["steps"][0]["state"][0].update(start="absent"),
        lambda about: about["steps"][0]["state"][0].update(output="absent"),
        lambda about: about["steps"][0]["row_inputs"][0].update(dtype="absent"),
        lambda about: about["steps"][0]["row_inputs"][0].update(shape=[2, 3, 5]),
    ],
)
def test_a_description_that_does_not_fit_the_graphs_is_a_damage(
    folder: Path, change: Callable[[dict[str, Any]], object]
) -> None:
    change_description(folder, change)
    (damage,) = verify_parts(folder).damages
    assert "run.json does not fit the graphs: " in damage.what and "bake it again" in damage.fix


def test_a_file_outside_the_folder_is_not_opened(folder: Path) -> None:
    (folder / "after.onnx").rename(folder.parent / "after.onnx")
    change_description(folder, lambda about: about.update(after="../after.onnx", sha256={}))
    assert [damage.what for damage in verify_parts(folder).damages] == [
        f"run.json names '../after.onnx', which is not a file of {folder}"
    ]


def test_another_description_is_refused(folder: Path) -> None:
    (folder / "run.json").write_text("{}")
    with refuses("`fewstep bake --parts`"):
        verify_parts(folder)
