"""How good choices are, run closed loop on the seeds that search, by this process or by any worker.

Choices are independent of each other. One follows the run of all int8 up to the first group in which it differs, which
is therefore kept.
"""

from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property

import numpy as np

from fewstep.calibration.lowering.targets import targets_by_name
from fewstep.calibration.precision.search import Choice
from fewstep.calibration.precision.variants import Variants
from fewstep.calibration.ranges.moments import Moments
from fewstep.calibration.ranges.table import RangesTable
from fewstep.graph import io
from fewstep.measure.rollouts.closed_loop import SEARCH_SEEDS, Course, open_course, without_network
from fewstep.measure.rollouts.conditions_file import ConditionRecords
from fewstep.measure.rollouts.metrics import psnr
from fewstep.measure.rollouts.on_demand import OpeningOnDemand
from fewstep.measure.rollouts.row_by_row import sampler_by_rows
from fewstep.measure.workers.pinned_bundle import PinnedBundle
from fewstep.plans.plan import Plan
from fewstep.runtime.backends import LoadedGraph
from fewstep.runtime.execute import Array, StepState, finish
from fewstep.runtime.loading import load

Choices = tuple[Choice, ...]  # that share graphs, and are run one after the other
Qualities = tuple[float, ...]  # mean PSNR of each in dB
Ask = Callable[[Iterable[Choices]], Iterator[Qualities]]  # in order, whoever runs them


@dataclass(frozen=True)
class ChoiceRuns:
    """Runs of choices along a course. `exact` are the samples of float32."""

    variants: Variants
    course: Course
    exact: Array

    def qualities(self, choices: Choices) -> Qualities:
        """Each graph is opened once, and all int8 stays open until `close`."""
        names, base = self.variants.operations, self._base
        opened: dict[frozenset[int], LoadedGraph] = {frozenset(): base}
        for floats in dict.fromkeys(floats for choice in choices for floats in choice):
            if floats not in opened:
                opened[floats] = self.variants.open([names[op] for op in floats])
        return tuple(self._quality(choice, opened) for choice in choices)

    def _quality(self, choice: Choice, opened: Mapping[frozenset[int], LoadedGraph]) -> float:
        states = self._states
        differs = next((group for group, floats in enumerate(choice) if floats), None)
        if differs is not None:
            states = self.course.run([opened[floats] for floats in choice], states, differs)
        return float(psnr(finish(self.course.plan, states[-1:]), self.exact).mean())

    def close(self) -> None:
        """Give the memory of all int8 back, but for its run. The next choice opens it again."""
        vars(self).pop("_base", None)

    @cached_property
    def _base(self) -> LoadedGraph:
        return self.variants.open()

    @cached_property
    def _states(self) -> list[StepState]:
        return self.course.run([self._base] * self.course.groups)


def runs_here(variants: Variants, course: Course) -> ChoiceRuns:
    """Of this process, which has the course of the float32 body."""
    return ChoiceRuns(variants, course, finish(course.plan, course.reference[-1:]))


@dataclass(frozen=True)
class SearchJob:
    """All that the runs of choices follow from; `target` by its name, `exact` as the command has sampled it. Each
    worker rounds weights by `moments`, which are bounded (`calibration/ranges/moments.py`)."""

    bundle: PinnedBundle
    plan: Plan
    rows: ConditionRecords | None
    table: RangesTable
    target: str
    moments: Moments
    exact: Array
    spared: tuple[str, ...] = ()

    def open(self, threads: int) -> Callable[[Choices], Qualities]:
        folder = self.bundle.folder()
        sampler = sampler_by_rows(load(folder, body="float32", backend=OpeningOnDemand(threads=threads)))
        prepared = io.load(sampler.bundle.graph(sampler.body.graph), root=folder)
        course = open_course(without_network(sampler), self.plan, SEARCH_SEEDS, self.rows)
        target = targets_by_name()[self.target]
        variants = Variants(prepared, self.table, target, threads=threads, moments=self.moments, spared=self.spared)
        return ChoiceRuns(variants, course, np.asarray(self.exact)).qualities
