"""benchmarks/zoo_tools.py: a line for each member and engine, against the best tool of the same coverage."""

import runpy
from pathlib import Path
from typing import Any

import pytest
from msgspec.structs import replace

from fewstep.plans.errors import UserError

SCRIPT = runpy.run_path(str(Path(__file__).parents[3] / "benchmarks/zoo_tools.py"))
TYPES = SCRIPT["save"].__globals__


def quality(mean: float, p5: float, ops: str = "ab") -> Any:
    return TYPES["Quality"](mean, p5, p5 - 1, 96, 100, tuple(ops), 0.0312)


def outcome(*rows: Any, model: str = "dit_flow") -> Any:
    return TYPES["Outcome"](model, "dpmpp_2m:8", 8, None, 64, 64, 8, "cpu", ("fewstep 1",), rows)


def row(name: str, found: Any, engine: str = "onnxruntime") -> Any:
    return TYPES["Row"](
        engine, name, "" if name == "fewstep" else name, found, chosen="channels", plain=quality(44.0, 39.0)
    )


def test_the_best_of_the_same_operations_is_compared() -> None:
    found = outcome(
        row("fewstep", quality(45.0, 40.0)),
        row("a", quality(42.0, 39.5)),
        row("b", quality(43.0, 37.5)),
        row("less", quality(60.0, 60.0, "a")),  # in float where ours is in int8
        row("failed", None),
    )
    (line,) = SCRIPT["lines"](found)
    assert line == (
        "| dit_flow | 8 | 64 from 0 | onnxruntime | 45.0 / 40.0 | channels | 44.0 / 39.0 | 96.0 % | 3.1 %"
        " | 43.0 / 37.5 (b) | +2.0 / +2.5 | met |"
    )


@pytest.mark.parametrize(
    ("mean", "p5", "verdict"), [(47.0, 42.0, "met"), (46.9, 42.0, "missed"), (47.0, 41.9, "missed")]
)
def test_the_bar_holds_for_the_mean_and_the_tail(mean: float, p5: float, verdict: str) -> None:
    (line,) = SCRIPT["lines"](outcome(row("fewstep", quality(mean, p5)), row("a", quality(45.0, 40.0))))
    assert line.endswith(f" {verdict} |")


def test_an_engine_without_an_equal_says_so() -> None:
    (line,) = SCRIPT["lines"](outcome(row("fewstep", quality(45.0, 40.0)), row("less", quality(44.0, 40.0, "a"))))
    assert line.startswith("| dit_flow | 8 | 64 from 0 | onnxruntime | 45.0 / 40.0 | channels | 44.0 / 39.0 |")
    assert line.endswith("| 96.0 % | 3.1 % | none |  |  |")


def test_the_page_has_kept_outcomes_of_members_and_of_this_code_alone() -> None:
    start, end = SCRIPT["MARKERS"]
    by = {"code": SCRIPT["own_code"]()}
    own = replace(outcome(row("fewstep", quality(45.0, 40.0))), **by)
    other = replace(outcome(row("fewstep", quality(1.0, 1.0)), model="tiny"), **by)
    earlier = replace(outcome(row("fewstep", quality(2.0, 2.0))), code="of an earlier version")
    text = SCRIPT["page"](f"before\n{start}\nold\n{end}\nafter", SCRIPT["described"]([own, other, earlier]))
    assert text.startswith("before") and text.endswith("after") and "old" not in text and "tiny" not in text
    assert "2.0 / 2.0" not in text
    assert "| dit_flow | 8 |" in text and "Made with fewstep 1." in text
    with pytest.raises(UserError, match="markers"):
        SCRIPT["page"]("nothing", "")


def test_a_member_with_conditions_of_its_own_is_left_out(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    class Speech:
        name = "speech"

        def rows(self, count: int, seed: int) -> dict[str, object]:
            return {"noisy": 1}

    assert list(SCRIPT["run"]([Speech()], [8], {}, None)) == []
    assert "speech needs conditions of its own" in capsys.readouterr().err


def test_seeds_that_are_not_held_out_are_refused_before_anything_runs(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        SCRIPT["main"](["--first-seed", "-5", "--model", "dit_flow"])
    assert "seeds -5 to 58 are not held out; choose from 0 to " in capsys.readouterr().err
