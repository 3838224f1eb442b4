"""zoo_ranking.py: pairs that are surely apart, and the errors that a plan adds up."""

import runpy
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from fewstep.calibration.calibrate import open_task
from fewstep.calibration.options import CalibrateOptions
from fewstep.rollouts.closed_loop import SELECTION_SEEDS, open_course
from tests.calibration.test_calibrate import denoiser, write_bundle

SCRIPT = runpy.run_path(str(Path(__file__).parents[3] / "benchmarks/on_zoo/zoo_ranking.py"))


def way(mean: float, trials: float, others: float = 30.0) -> Any:
    spread = np.array([-0.1, 0.0, 0.1, 0.0])
    objectives = {"trials": (trials,), "sum of errors": (others,), "sum of squares": (mean + 1,)}
    return SCRIPT["Way"](tuple(mean + spread * mean / 40), objectives)


def test_pairs_count_where_the_judge_is_sure() -> None:
    ways = [way(40.0, 33.0), way(45.0, 32.0), way(40.0001, 34.0)]  # the last is the first, but for noise
    found = SCRIPT["agreement"](ways)
    assert found.pairs == 2 + 1  # no spread between the first and the last: surely different by next to nothing
    assert found.alike == {"trials": 1, "sum of errors": 0, "sum of squares": 3}
    close = SCRIPT["agreement"](ways, 2.0)
    assert str(close) == "1 | 100 % | 0 % | 100 %"


def test_a_choice_is_valued_by_all_and_by_the_worse_half() -> None:
    assert SCRIPT["value"]([30.0, 40.0, 50.0, 60.0]) == (45.0 + 35.0) / 2


def test_errors_add_up_by_the_plan(tmp_path: Path) -> None:
    task = open_task(CalibrateOptions(write_bundle(tmp_path / "tiny", denoiser()), "ddim:3", ("cpu-x86",), 4))
    course = open_course(task.sampler, task.plan, SELECTION_SEEDS[:2])

    def exact(feeds: Any) -> dict[str, Any]:
        return task.sampler.denoiser({name: each for name, each in feeds.items() if name != "group"})

    def wrong(error: float) -> Any:
        return lambda feeds: {name: each + error for name, each in exact(feeds).items()}

    sums = [SCRIPT["by_errors"](course, wrong(error), exact) for error in (0.0, 0.01, 0.02)]
    squares = SCRIPT["by_squares"](course, wrong(0.01), exact)
    assert np.all(sums[0] < 1e-12)
    assert np.all(sums[1] > 1e-6) and sums[2] == pytest.approx(4 * sums[1], rel=1e-3)
    assert np.all(sums[1] > 0.999 * squares)  # errors of one sign do not cancel
