"""The float32 runs with which int8 bodies are compared, one class for each sample space."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import chain
from typing import Any, Protocol

from fewstep.calibration.task import Task
from fewstep.measure.judges.judge import Conditions, SamplePairs, Values
from fewstep.measure.rollouts.end_quality import EndQuality, compare_samples
from fewstep.measure.rollouts.nearness import ReferencePower, beyond_data, leaves_range
from fewstep.measure.rollouts.output_differences import body_differences, float_differences, worst_difference
from fewstep.measure.rollouts.record_sizes import join_rows
from fewstep.measure.rollouts.recorded_run import RecordedRun, record_runs
from fewstep.measure.rollouts.recorded_token_run import RecordedTokenRun, TokenOutputs, record_token_run
from fewstep.measure.rollouts.reference_check import check_reference
from fewstep.measure.rollouts.row_by_row import with_row_by_row_body
from fewstep.measure.rollouts.seeds import BODY_SEEDS, SeedBatch
from fewstep.measure.rollouts.size_quality import qualities_by_size, shapes_of_records
from fewstep.plans.any_plan import AnyPlan, check_compiled, shaping_of
from fewstep.plans.tokens.plan import TokenPlan
from fewstep.runtime.backends import LoadedGraph
from fewstep.runtime.bundle.figures import ReferenceCheck
from fewstep.runtime.bundle.manifest import Difference, Manifest
from fewstep.runtime.kinds.sizes import apply_sizes
from fewstep.runtime.progress import SILENT, Progress, prefix_stages
from fewstep.runtime.sampling.execute import StepState


class JudgingRun(Protocol):
    """A float32 run along a plan with range groups."""

    @property
    def groups(self) -> int:
        """The number of range groups of its plan."""

    @property
    def is_far(self) -> bool:
        """Whether the samples of float32 itself leave the range of the data, which the plan does not prevent by
        clipping."""

    @property
    def reference(self) -> ReferenceCheck | None:
        """The check of float32's samples; None for tokens."""

    @property
    def float_pairs(self) -> SamplePairs:
        """The samples of float32, paired with themselves."""

    def run(self, graphs: Sequence[LoadedGraph]) -> Any:
        """Run the graphs of a body, one per range group, at the steps of the recorded run. Return what `samples`,
        `quality` and `details` read."""

    def samples(self, outputs: Any) -> Values:
        """Return the samples of a run from what `run` returned for it."""

    def quality(self, outputs: Any) -> EndQuality:
        """Return the quality of a run from what `run` returned for it."""

    def details(self, outputs: Any, quality: EndQuality, graphs: Sequence[LoadedGraph]) -> Mapping[str, Any]:
        """Return values for further fields of the body's `Trial`, rounded."""


@dataclass(frozen=True)
class ContinuousJudgingRun:
    """Recorded float32 runs, each of samples of one size, with which int8 bodies are compared: their samples, and the
    differences between branches and between conditions. `shapes` are all shapes of x in the calibration, and
    `held_out_shapes` those of the records that judge."""

    recorded: tuple[RecordedRun, ...]
    manifest: Manifest
    reference: ReferenceCheck
    shapes: frozenset[tuple[int, ...]] = frozenset()
    held_out_shapes: frozenset[tuple[int, ...]] = frozenset()

    @property
    def groups(self) -> int:
        return self.recorded[0].groups

    @property
    def is_far(self) -> bool:
        power = ReferencePower()
        for run in self.recorded:
            power.add(run.sample)
        return leaves_range(power.nearness(0.0), self.manifest, self._is_clipped)

    @property
    def _is_clipped(self) -> bool:
        return shaping_of(self.recorded[0].plan) is not None

    @property
    def float_pairs(self) -> SamplePairs:
        return SamplePairs.join([SamplePairs(run.sample, run.sample, run.batch.conditions) for run in self.recorded])

    def run(self, graphs: Sequence[LoadedGraph]) -> list[list[StepState]]:
        return [run.run(graphs) for run in self.recorded]

    def samples(self, outputs: list[list[StepState]]) -> Values:
        return join_rows([run.final_samples(states) for run, states in zip(self.recorded, outputs, strict=True)])

    def quality(self, outputs: list[list[StepState]]) -> EndQuality:
        pairs = [(run.final_samples(states), run.sample) for run, states in zip(self.recorded, outputs, strict=True)]
        return compare_samples(pairs, f"float32, {self.recorded[0].plan.name}")

    def details(
        self, outputs: list[list[StepState]], quality: EndQuality, graphs: Sequence[LoadedGraph]
    ) -> Mapping[str, Any]:
        of_runs = zip(*(body_differences(run, graphs) for run in self.recorded), strict=True)
        guidance, condition = (_worst_difference([*chain.from_iterable(lists)]) for lists in of_runs)
        differences = {"guidance": guidance, "condition": condition, "reference": self.reference}
        return {**self.scale_details(quality), **differences}

    def scale_details(self, quality: EndQuality) -> dict[str, Any]:
        """Return the fields of a body's `Trial` that relate its quality to the scale and the size of samples,
        rounded."""
        snr, unrelated = (
            None if decibels is None else round(decibels, 2) for decibels in (quality.snr, quality.unrelated)
        )
        beyond = beyond_data(quality.nearness, self.manifest, self._is_clipped)
        beyond = None if beyond is None else float(f"{beyond:.3g}")
        samples = [(run.batch.x_shape, seed) for run in self.recorded for seed in run.batch.seeds]
        shapes, seeds = zip(*samples, strict=True)
        by_size = qualities_by_size(self.manifest, shapes, seeds, quality.values, self.shapes)
        return {"snr": snr, "unrelated": unrelated, "beyond": beyond, "by_size": by_size}

    @property
    def judged_shapes(self) -> set[tuple[int, ...]]:
        """The shapes of x of the recorded samples."""
        return {run.batch.x_shape for run in self.recorded}


@dataclass(frozen=True)
class TokenJudgingRun:
    """A recorded float32 run of tokens with which int8 bodies are compared: their logits at its states, and the tokens
    of a separate run. `conditions` are those of its samples."""

    recorded: RecordedTokenRun
    conditions: Conditions
    reference = None

    @property
    def groups(self) -> int:
        return self.recorded.groups

    @property
    def is_far(self) -> bool:
        return False

    @property
    def float_pairs(self) -> SamplePairs:
        ids = self.recorded.reference.ids
        return SamplePairs(ids, ids, self.conditions)

    def run(self, graphs: Sequence[LoadedGraph]) -> TokenOutputs:
        return self.recorded.run(graphs)

    def samples(self, outputs: TokenOutputs) -> Values:
        return outputs.ids

    def quality(self, outputs: TokenOutputs) -> EndQuality:
        return self.recorded.quality(outputs)

    def details(self, outputs: TokenOutputs, quality: EndQuality, graphs: Sequence[LoadedGraph]) -> Mapping[str, Any]:
        return {"tokens": self.recorded.agreement(outputs)}


def record_judging_run(task: Task, plan: AnyPlan, progress: Progress = SILENT) -> JudgingRun:
    """Record the float32 run with which all bodies are compared. The steps of `plan` are assigned to the range groups
    of the calibration.

    A `LazyGraph` of the network stays open.
    """
    sampler = with_row_by_row_body(task.sampler) if task.is_large else task.sampler  # as in counting
    seeds = BODY_SEEDS[: len(task.seeds)]
    shown = prefix_stages(progress, "judgement")
    if isinstance(plan, TokenPlan):
        batch = SeedBatch.from_manifest(sampler.bundle.manifest, seeds, task.judging.records)
        return TokenJudgingRun(record_token_run(sampler, plan, batch, shown), batch.conditions)
    networks = task.with_all_networks(sampler)
    recorded = record_runs(networks, check_compiled(plan), seeds, task.judging.records, shown, task.network)
    reference = check_reference(networks, max(recorded, key=lambda run: len(run.batch.seeds)))
    if sampler.bundle.manifest.conditions:
        graph = sampler.network().graph
        recorded = tuple(replace(run, differences=float_differences(run, graph)) for run in recorded)
    manifest = sampler.bundle.manifest
    held_out = shapes_of_records(task.judging.records, manifest)
    return ContinuousJudgingRun(recorded, manifest, reference, _shapes_of(task, held_out), held_out)


def _shapes_of(task: Task, held_out: frozenset[tuple[int, ...]]) -> frozenset[tuple[int, ...]]:
    """Return the shapes of x of a calibration: those of its --size options, or else of its conditions and of those that
    judge, `held_out`."""
    manifest = task.sampler.bundle.manifest
    if task.sizes:
        return frozenset(apply_sizes(manifest, sizes).x_shape for sizes in task.sizes)
    return shapes_of_records(task.conditions, manifest) | held_out


def _worst_difference(steps: Sequence[Difference | None]) -> Difference | None:
    """Return the difference at the step where it is preserved worst, rounded to significant digits. None if no step has
    one."""
    each = worst_difference(steps)
    return each and Difference(each.step, round(each.gain, 3), round(each.ratio, 2), round(each.share, 4))
