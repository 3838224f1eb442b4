"""zoo_distances.py: a line for each denoiser whose data has an extractor."""

import runpy
from pathlib import Path

from fewstep.measure.distances.features import NAMED
from fewstep.measure.results import Distance

SCRIPT = runpy.run_path(str(Path(__file__).parents[3] / "benchmarks/on_zoo/zoo_distances.py"))


def test_a_line_has_the_difference_beside_the_floor() -> None:
    found = Distance("float32", 256, 256, 5.25, 5.0, 0.25, -0.1, 0.6, 5.0, False)
    line = SCRIPT["line"]("dit_flow", 8, found)
    assert line == "| dit_flow | 8 | 256 | 5.00 | 5.25 | +0.25 | -0.10 to +0.60 | 5.00 |"
    assert SCRIPT["HEADER"][1].count("|") == SCRIPT["HEADER"][0].count("|") == line.count("|")


def test_members_have_the_extractor_of_their_data() -> None:
    assert {*SCRIPT["EXTRACTORS"].values()} == {each.name for each in NAMED}
    assert {*SCRIPT["EXTRACTORS"]} < {member.name for member in SCRIPT["ALL"]}
