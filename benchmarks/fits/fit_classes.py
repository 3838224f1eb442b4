"""Fits that do not see one value of a condition, judged on this value alone: does a fitted plan hold on what is new?"""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path
from tempfile import TemporaryDirectory

import msgspec
import numpy as np

from fewstep.fitting.blocks import blocks_of
from fewstep.fitting.conditions import USES
from fewstep.fitting.options import FitOptions
from fewstep.fitting.recurrence import plan_of
from fewstep.fitting.search import checkpoint_of_search, search
from fewstep.fitting.task import FitTask, open_task
from fewstep.fitting.teacher import identity, taught
from fewstep.plans.errors import UserError
from fewstep.plans.plan import Plan
from fewstep.runtime.bundle.manifest import Condition
from fewstep.runtime.bundle.reading import Bundle, open_bundle
from fewstep.runtime.sampler import Sampler

SEEDS, SELECTION, ITERATIONS = 16, 16, 1  # of each fit: a short one, since there is one for each value


class LeftOut(msgspec.Struct, frozen=True):
    """PSNRs in dB of samples with one value of a condition, [seeds] each: of the nominal plan, of the plan that was
    fitted to all values, and of the one that was fitted without this value. digest: of all that they follow from."""

    value: str
    digest: str
    evaluations: int
    nominal: tuple[float, ...]
    of_all: tuple[float, ...]
    without: tuple[float, ...]


@dataclass(frozen=True)
class Question:
    """One value to leave out of a fit of `steps` evaluations to float32, at a guidance weight, judged on some seeds."""

    path: Path
    steps: int
    weight: float | None
    value: int
    judges: range

    @property
    def condition(self) -> Condition:
        (condition,) = open_bundle(self.path).manifest.conditions
        return condition

    @property
    def label(self) -> str:
        return self.condition.labels[self.value] if self.condition.labels else str(self.value)

    def digest(self, sampler: Sampler) -> str:
        """A hash of the float32 body, fewstep's code, the question and the fits' sizes."""
        asked = (identity(sampler), self.steps, self.weight, self.value, self.judges, SEEDS, SELECTION, ITERATIONS)
        return sha256(repr(asked).encode()).hexdigest()[:16]


def check_values(bundle: Bundle, values: Iterable[int]) -> None:
    """UserError for a denoiser whose only condition is no class, and for classes that it has not."""
    conditions = bundle.manifest.conditions
    if len(conditions) != 1 or conditions[0].shape != () or not conditions[0].dtype.startswith("int"):
        raise UserError("this denoiser has no classes to leave out", "take one whose only condition is a class")
    every = _values(conditions[0])
    for value in values:
        if value not in every:
            raise UserError(f"there is no class {value}", f"give {every.start} to {every.stop - 1}")


def left_out(questions: Sequence[Question], threads: int) -> Iterator[LeftOut]:
    """The answers: fits of the same steps without each value, beside the one to all of them."""
    if not questions:
        return
    condition = questions[0].condition
    _, nominal, of_all = _fitted(questions[0], _values(condition), threads)
    for asked in questions:
        rest = [each for each in _values(condition) if each != asked.value]
        task, _, without = _fitted(asked, rest, threads)
        rows = {condition.name: np.array([asked.value], condition.dtype)}
        blocks = taught(task.rolled, task.teacher, blocks_of(task.sampler, asked.judges, rows))
        found = (task.rolled.qualities(plan, blocks) for plan in (nominal, of_all, without))
        psnrs = (tuple(np.round(each, 3).tolist()) for each in found)
        yield LeftOut(asked.label, asked.digest(task.sampler), asked.steps, *psnrs)


def _fitted(asked: Question, values: Sequence[int], threads: int) -> tuple[FitTask, Plan, Plan]:
    """The nominal plan and the fitted one. The bundle stays as it is: nothing is judged, and nothing kept."""
    condition = asked.condition
    with TemporaryDirectory() as folder:
        file = Path(folder) / "conditions.npz"
        rows = np.repeat(np.array(values, condition.dtype), USES)  # each use of a fit has each value
        np.savez(file, **{condition.name: rows})  # type: ignore[arg-type]
        options = FitOptions(
            asked.path,
            steps=asked.steps,
            method="rows",
            guidance=asked.weight,
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


def _values(condition: Condition) -> range:
    return range(int(condition.low or 0), int(condition.high or 0) + 1)
