"""What `calibrate` says before and after a search: how much it takes, and what was found."""

import re
from pathlib import Path
from typing import Any

import pytest

from fewstep.calibration.calibrate import calibrate
from fewstep.calibration.options import CalibrateOptions
from fewstep.calibration.precision.native import searched_here
from fewstep.calibration.precision.search_cost import TIMED
from fewstep.cli.verbs.calibrate import dry_run, verb
from fewstep.measure.rollouts import closed_loop
from fewstep.measure.rollouts.closed_loop import Course
from fewstep.runtime.progress import SILENT
from tests.calibration.precision.faked_times import Clock
from tests.calibration.precision.test_refine import deep
from tests.calibration.test_calibrate import write_bundle

BODY = f"int8-{searched_here()[0]}"


def asked(tmp_path: Path, **more: Any) -> CalibrateOptions:
    bundle = tmp_path / "bundle"
    if not bundle.exists():
        write_bundle(bundle, deep())
    return CalibrateOptions(bundle, "ddim:3", searched_here()[:1], trajectories=12, **more)


def printed(outcome: Any) -> str:
    return "\n".join(map(str, outcome.shown))


@pytest.mark.slow
@pytest.mark.parametrize(
    ("bound", "shared"),
    [
        ({"quality": "20dB"}, 3 + 2 + 1),  # steps that follow from the first of each group
        ({"quality": "35dB"}, 3 + 2 + 1),
        ({"speed": "1.05x"}, 3 + 2 + 1),
    ],
)
def test_a_search_runs_no_more_and_no_less_than_a_dry_run_says(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, clock: Clock, bound: dict[str, str], shared: int
) -> None:
    """Against the evaluations of the search itself."""
    clock.time = lambda floats: 1 + 0.06 * len(floats)
    options = asked(tmp_path, **bound)
    would = dry_run(options)
    least, most = would.value["search_evaluations"]
    said = f"the search of a precision map takes {least} to {most} evaluations of 16 samples, "
    assert said in printed(would) and " at float32's speed, less what an earlier one measured" in printed(would)
    calls = [0]
    fed, by_group, opened = Course.fed, closed_loop.by_group, closed_loop.open_course

    def counted(function: Any) -> Any:
        def call(*arguments: Any) -> Any:
            calls[0] += 1
            return function(*arguments)

        return call

    def open_counted(sampler: Any, plan: Any, *more: Any) -> Course:
        calls[0] += len(plan.steps)
        return opened(sampler, plan, *more)

    monkeypatch.setattr(Course, "fed", counted(fed))
    monkeypatch.setattr(closed_loop, "by_group", lambda *ports: counted(by_group(*ports)))
    monkeypatch.setattr(closed_loop, "open_course", open_counted)
    calibrate(options)
    assert least == 5 * 3 + (3 + 4 * shared) + 5 * TIMED + 5 * 3  # courses, operations, their times, and the rest
    assert least < calls[0] + TIMED * len(clock.timed) <= most


def test_what_is_deployed_is_printed_as_it_was_judged_and_measured(tmp_path: Path, clock: Clock) -> None:
    clock.time = lambda floats: 1 + 0.06 * len(floats)
    found = verb(asked(tmp_path, quality="35dB"), SILENT)
    form = (
        r"graphs: \d; on 64 seeds that the search did not use, and it had to pass on, (\d+\.\d) \+/- (0\.\d) dB from "
        r"float32, at 1\.\d\dx its speed, measured; all int8 (\d+\.\d) \+/- (0\.\d) dB at 1\.24x"
    )
    match = re.search(form, printed(found))
    assert match is not None and float(match[1]) >= 35
    figures = ("judged_psnr", "standard_error", "all_int8_psnr", "all_int8_standard_error")
    told = [found.value["bodies"][BODY][figure] for figure in figures]
    assert told == pytest.approx([*map(float, match.groups())], abs=0.051) and told[0] > told[2] and min(told) > 0


def test_without_a_search_nothing_is_told_of_one(tmp_path: Path) -> None:
    body = verb(asked(tmp_path), SILENT).value["bodies"][BODY]
    assert body["judged_psnr"] is body["standard_error"] is body["all_int8_psnr"] is None


@pytest.mark.slow
def test_a_speed_is_met_without_a_choice_on_the_seeds_that_judge(tmp_path: Path, clock: Clock) -> None:
    clock.time = lambda floats: 1 + 0.06 * len(floats)
    found = printed(verb(asked(tmp_path, speed="1.1x"), SILENT))
    assert re.search(r"on 64 seeds that the search did not use \d+\.\d \+/- 0\.\d dB from float32", found)


def test_float32_that_is_deployed_is_called_so(tmp_path: Path) -> None:
    found = verb(asked(tmp_path, quality="190dB"), SILENT)
    said = "graphs: 1; float32 itself at every step; on 64 seeds that the search did not use all int8"
    assert said in printed(found)
    assert found.value["bodies"][BODY]["judged_psnr"] == 200.0
