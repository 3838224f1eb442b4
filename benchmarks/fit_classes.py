"""Fits that do not see one value of a condition, judged on this value alone: does a fitted plan hold on what is new?"""

from collections.abc import Iterator, Sequence
from pathlib import Path
from tempfile import TemporaryDirectory

import msgspec
import numpy as np

from fewstep.fitting.blocks import blocks_of
from fewstep.fitting.options import FitOptions
from fewstep.fitting.recurrence import plan_of
from fewstep.fitting.rows import USES
from fewstep.fitting.search import checkpoint_of_search, search
from fewstep.fitting.task import FitTask, open_task
from fewstep.fitting.teacher import taught
from fewstep.plans.errors import UserError
from fewstep.plans.plan import Plan
from fewstep.runtime.bundle.manifest import Condition
from fewstep.runtime.bundle.reading import open_bundle

METHOD = "rows"
SEEDS, SELECTION, ITERATIONS = 24, 16, 2  # of each fit: a short one, since there is one for each value


class LeftOut(msgspec.Struct, frozen=True):
    """PSNRs in dB of samples with one value of a condition, [seeds] each: of the nominal plan, of the plan that was
    fitted to all values, and of the one that was fitted without this value."""

    value: str
    evaluations: int
    nominal: tuple[float, ...]
    of_all: tuple[float, ...]
    without: tuple[float, ...]


def left_out(
    path: Path, steps: int, weight: float | None, values: Sequence[int], judges: range, threads: int
) -> Iterator[LeftOut]:
    """The fits of `steps` evaluations to float32 without each value, beside the fit to all of them."""
    condition = _countable(open_bundle(path).manifest.conditions)
    low, high = int(condition.low or 0), int(condition.high or 0)
    every = range(low, high + 1)
    _, nominal, of_all = _fitted(path, steps, weight, condition, every, threads)
    for value in values:
        rest = [each for each in every if each != value]
        task, _, without = _fitted(path, steps, weight, condition, rest, threads)
        rows = {condition.name: np.array([value], condition.dtype)}
        blocks = taught(task.rolled, task.teacher, blocks_of(task.sampler, judges, rows))
        found = (task.rolled.qualities(plan, blocks) for plan in (nominal, of_all, without))
        label = condition.labels[value - low] if condition.labels else str(value)
        yield LeftOut(label, steps, *(tuple(np.round(each, 3).tolist()) for each in found))


def _fitted(
    path: Path, steps: int, weight: float | None, condition: Condition, values: Sequence[int], threads: int
) -> tuple[FitTask, Plan, Plan]:
    """The nominal plan and the fitted one. The bundle stays as it is: nothing is judged, and nothing kept."""
    with TemporaryDirectory() as folder:
        file = Path(folder) / "conditions.npz"
        rows = np.repeat(np.array(values, condition.dtype), USES)  # each use of a fit has each value
        np.savez(file, **{condition.name: rows})  # type: ignore[arg-type]
        options = FitOptions(
            path,
            steps=steps,
            method=METHOD,
            guidance=weight,
            conditions=file,
            seeds=SEEDS,
            selection_seeds=SELECTION,
            iterations=ITERATIONS,
            threads=threads,
        )
        task = open_task(options)
    for found in search(task, options):
        best = found
    checkpoint_of_search(task, options, best).drop()
    return task, best.nominal, plan_of(best.numbers)


def _countable(conditions: Sequence[Condition]) -> Condition:
    if len(conditions) != 1 or conditions[0].shape != () or not conditions[0].dtype.startswith("int"):
        raise UserError("this denoiser has no classes to leave out", "take one whose only condition is a class")
    return conditions[0]
