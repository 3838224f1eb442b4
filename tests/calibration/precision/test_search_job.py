"""Workers run choices as one process does, and so find the same precision map."""

import pickle
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from fewstep.calibration.calibrate import calibrate
from fewstep.calibration.lowering.targets import targets_by_name
from fewstep.calibration.on_demand import OpeningOnDemand
from fewstep.calibration.options import CalibrateOptions
from fewstep.calibration.precision.closed_loop import SEARCH_SEEDS, open_course
from fewstep.calibration.precision.search import Choice
from fewstep.calibration.precision.search_job import SearchJob, runs_here
from fewstep.calibration.precision.variants import Variants
from fewstep.calibration.row_by_row import sampler_by_rows
from fewstep.calibration.workers.processes import Processes
from fewstep.calibration.workers.sent_bundle import sent
from fewstep.machine import cache
from fewstep.runtime.execute import finish
from fewstep.runtime.loading import load
from tests.calibration.precision.test_refine import LAYERS, deep
from tests.calibration.test_calibrate import contents, table_of, write_bundle

INT8: frozenset[int] = frozenset()
FLOAT32 = frozenset(range(LAYERS))


def first(folder: Path, quality: str = "") -> CalibrateOptions:
    bundle = write_bundle(folder, deep())
    asked = CalibrateOptions(bundle, plan="ddim:3", target=("cpu-x86",), trajectories=4, threads=1)
    return replace(asked, quality=quality or None)


def test_a_job_runs_choices_as_the_process_that_asks(tmp_path: Path) -> None:
    options = first(tmp_path / "bundle")
    made = calibrate(options)
    sampler = sampler_by_rows(load(options.bundle, body="float32", backend=OpeningOnDemand()))
    course = open_course(sampler, made.plan, SEARCH_SEEDS)
    here = runs_here(Variants(deep(), table_of(made), targets_by_name()["cpu-x86"]), course)
    exact = finish(made.plan, course.reference[-1:])
    job = SearchJob(sent(options.bundle), made.plan, None, table_of(made), "cpu-x86", exact)
    choices: tuple[Choice, ...] = (
        (INT8,) * 3,
        (INT8, frozenset({1}), INT8),
        (frozenset({0, 2}), INT8, frozenset({1})),
        (FLOAT32,) * 3,
    )
    found = pickle.loads(pickle.dumps(job)).open(1)(choices)
    assert (
        found == here.qualities(choices) and found[0] < found[1] and found[-1] == 200.0
    )  # the ceiling: float32 itself
    networks = [here.variants.open([here.variants.operations[op] for op in floats]) for floats in choices[2]]
    assert found[2] == float(np.mean(course.quality(course.run(networks))))


@pytest.mark.slow
@pytest.mark.parametrize("count", [1, 2])
def test_any_number_of_workers_finds_the_same_map(tmp_path: Path, count: int) -> None:
    alone = first(tmp_path / "alone", "36dB")
    calibrate(alone)
    (kept,) = (cache.folder() / "precision").glob("*")
    figures = kept.read_bytes()
    kept.unlink()
    spread = first(tmp_path / "spread", "36dB")
    with Processes(count) as workers:
        calibrate(spread, workers=workers)
    assert contents(spread.bundle) == contents(alone.bundle) and kept.read_bytes() == figures
