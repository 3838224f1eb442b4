"""Workers run choices as one process does, and so find the same precision map."""

import pickle
from collections.abc import Collection
from dataclasses import replace
from pathlib import Path
from typing import Any
from weakref import WeakSet

import numpy as np
import pytest

from fewstep.calibration.calibrate import calibrate
from fewstep.calibration.lowering.targets import targets_by_name
from fewstep.calibration.options import CalibrateOptions
from fewstep.calibration.precision import refine as refine_module
from fewstep.calibration.precision import sensitivity
from fewstep.calibration.precision.bound import Bound
from fewstep.calibration.precision.search import Choice
from fewstep.calibration.precision.search_job import SearchJob, runs_here
from fewstep.calibration.precision.variants import Variants
from fewstep.measure.rollouts.closed_loop import SEARCH_SEEDS, open_course
from fewstep.measure.rollouts.on_demand import OpeningOnDemand
from fewstep.measure.rollouts.row_by_row import sampler_by_rows
from fewstep.measure.workers.pinned_bundle import pinned
from fewstep.measure.workers.processes import Processes
from fewstep.plans.errors import UserError
from fewstep.runtime.execute import finish
from fewstep.runtime.loading import load
from fewstep.runtime.machine import cache
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
    target = targets_by_name()["cpu-x86"]
    here = runs_here(Variants(deep(), table_of(made), target), course)
    exact = finish(made.plan, course.reference[-1:])
    job = SearchJob(pinned(options.bundle), made.plan, None, table_of(made), target.name, {}, exact)
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


def test_two_graphs_are_open_while_one_is_timed_against_the_other(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """All int8 as it was run is closed, and opened again for the frontier."""
    options = first(tmp_path / "bundle")
    made = calibrate(options)
    sampler = sampler_by_rows(load(options.bundle, body="float32", backend=OpeningOnDemand()))
    course = open_course(sampler, made.plan, SEARCH_SEEDS)
    variants = Variants(deep(), table_of(made), targets_by_name()["cpu-x86"])
    alive, open_real, counts = WeakSet[Any](), Variants.open, []

    def tracked(variants: Variants, in_float: Collection[str] = ()) -> Any:
        session = open_real(variants, in_float)
        alive.add(session)
        return session

    def timed(*_: Any) -> float:
        counts.append(len(alive))
        return 1.0

    def end(*_: Any) -> None:
        raise UserError("measured", "end")

    monkeypatch.setattr(Variants, "open", tracked)
    monkeypatch.setattr(sensitivity, "slowdown", timed)
    monkeypatch.setattr(refine_module, "judge", end)
    with pytest.raises(UserError, match="measured"):
        refine_module.refine(variants, course, (), Bound(quality=1.0))
    assert counts == [2] * (LAYERS + 1)


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
