"""Pages that scripts write: their contents, the part that a script replaces, and ratios of contenders."""

from functools import partial
from pathlib import Path
from types import SimpleNamespace

import pytest

from benchmarks import shipped_models_page
from benchmarks.markdown import part_of, put_part, with_part
from fewstep.measure.speed.machine import Machine
from fewstep.measure.speed.race import Race, Timing
from fewstep.plans.errors import UserError
from lab.races import ddpm
from lab.races.take_turns import Call, Times, in_turns


def test_a_line_for_each_body_and_batch_stands_below_the_machine() -> None:
    known = Machine("AMD EPYC", 2, ("avx2",), "Linux", {"numpy": "2.4.6"})

    def timing(name: str, median: float, *ratios: float) -> Timing:
        return Timing(name, median, median, median, median, 9, *ratios, 0.0, 0.0)

    timings = (timing("float32", 0.02, 1.0, 1.0, 1.0), timing("int8-cpu-x86", 0.01, 2.0, 1.5, 2.5))
    found = SimpleNamespace(machine=known, bundle="m", races=(Race(1, 2, 9, timings),))
    first, *_, last = shipped_models_page.speed(found).split("\n")
    assert first == "Machine: AMD EPYC, 2 threads, avx2; numpy 2.4.6."
    assert last == "| m | 1 | `int8-cpu-x86` | 10.0 ms | 2.00x (1.50 to 2.50) |"


def test_only_what_stands_between_the_comments_is_replaced(tmp_path: Path) -> None:
    text = "before\n<!-- made by one.py -->\n\nold\n\n<!-- end of what one.py makes -->\nafter"
    assert part_of(text, "one.py") == "old"
    assert with_part(text, "one.py", "new") == text.replace("old", "new")
    file = tmp_path / "page.md"
    file.write_text(text)
    put_part(file, "one.py", "new")
    assert file.read_text() == text.replace("old", "new")
    with pytest.raises(UserError, match="no part that other.py writes"):
        with_part(text, "other.py", "new")


def test_the_page_has_a_place_for_its_script() -> None:
    assert "|" in part_of(shipped_models_page.PAGE.read_text(), shipped_models_page.SCRIPT)


def counting(start: int) -> Call:
    return partial(sum, range(start))


def test_a_ratio_is_the_median_of_those_of_turns() -> None:
    first = Times((2.0, 4.0, 9.0), (1.0, 1.0, 1.0))
    other = Times((1.0, 2.0, 3.0), (0.5, 0.25, 0.5))
    assert other.against(first) == (2.0, 2.0) and first.against(first) == (1.0, 1.0)


def test_each_contender_has_a_time_of_each_turn() -> None:
    found = in_turns({"few": partial(counting, 10), "many": partial(counting, 10**6)}, rounds=3, seconds=0.0)
    assert list(found) == ["few", "many"] and {len(each.wall) for each in found.values()} == {3}
    wall, processor = found["few"].against(found["many"])
    assert wall > 10 and processor > 10


def test_peers_are_compared_with_float32_and_diffusers() -> None:
    slow, fast = Times((0.04,), (0.04,)), Times((0.01,), (0.02,))
    lines = list(ddpm.rows({ddpm.FIRST: slow, "int8": fast, ddpm.DIFFUSERS: slow}, 8))
    assert lines[3] == "| int8 | 8 | 10.0 | 20.0 | 4.00 | 2.00 | 4.00 | 2.00 |"
