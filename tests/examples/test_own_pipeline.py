"""The example of a pipeline of an own class: its bundle has the pipeline's x."""

import re
from pathlib import Path

import pytest

from fewstep.export.export import export
from fewstep.export.export_options import ExportOptions
from tests.examples.conftest import EXAMPLES, Example

pytest.importorskip("diffusers")


@pytest.mark.slow
def test_x_of_the_bundle_is_that_of_the_pipeline(tmp_path: Path, example: Example) -> None:
    export(ExportOptions(f"{EXAMPLES}/own_pipeline.py:painter", tmp_path / "painter", verify="quick"))
    _, printed = example("own_pipeline.py", tmp_path / "painter", "a red cat")
    difference, largest = map(float, re.findall(r"[\d.]+(?:e-\d+)?(?=, of|\n)", printed))
    assert difference < 3e-6 * largest and largest > 100
