"""The float32 runs with which int8 bodies are compared, one class for each sample space."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Protocol

from fewstep.calibration.task import Task
from fewstep.measure.rollouts.end_quality import EndQuality
from fewstep.measure.rollouts.nearness import ReferencePower, beyond_data, leaves_range
from fewstep.measure.rollouts.output_differences import body_differences, float_differences, worst_difference
from fewstep.measure.rollouts.recorded_run import RecordedRun, record_run
from fewstep.measure.rollouts.recorded_token_run import RecordedTokenRun, TokenOutputs, record_token_run
from fewstep.measure.rollouts.row_by_row import with_row_by_row_body
from fewstep.measure.rollouts.seeds import BODY_SEEDS, SeedBatch
from fewstep.plans.any_plan import AnyPlan, check_compiled, shaping_of
from fewstep.plans.tokens.plan import TokenPlan
from fewstep.runtime.backends import LoadedGraph
from fewstep.runtime.bundle.manifest import Difference, Manifest
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

    def run(self, graphs: Sequence[LoadedGraph]) -> Any:
        """Run the graphs of a body, one per range group, at the steps of the recorded run. Return what `quality` and
        `details` read."""

    def quality(self, made: Any) -> EndQuality:
        """Return the quality of a run from what `run` returned for it."""

    def details(self, made: Any, quality: EndQuality, graphs: Sequence[LoadedGraph]) -> Mapping[str, Any]:
        """Return values for further fields of the body's `Trial`, rounded."""


@dataclass(frozen=True)
class ContinuousJudgingRun:
    """A recorded float32 run with which int8 bodies are compared: their samples, and the differences between branches
    and between conditions."""

    recorded: RecordedRun
    manifest: Manifest

    @property
    def groups(self) -> int:
        return self.recorded.groups

    @property
    def is_far(self) -> bool:
        power = ReferencePower()
        power.add(self.recorded.sample)
        return leaves_range(power.nearness(0.0), self.manifest, self._is_clipped)

    @property
    def _is_clipped(self) -> bool:
        return shaping_of(self.recorded.plan) is not None

    def run(self, graphs: Sequence[LoadedGraph]) -> list[StepState]:
        return self.recorded.run(graphs)

    def quality(self, made: list[StepState]) -> EndQuality:
        return self.recorded.quality(made)

    def details(self, made: Any, quality: EndQuality, graphs: Sequence[LoadedGraph]) -> Mapping[str, Any]:
        guidance, condition = (_worst_difference(each) for each in body_differences(self.recorded, graphs))
        snr, unrelated = (None if each is None else round(each, 2) for each in (quality.snr, quality.unrelated))
        beyond = beyond_data(quality.nearness, self.manifest, self._is_clipped)
        beyond = None if beyond is None else float(f"{beyond:.3g}")
        return {"snr": snr, "unrelated": unrelated, "guidance": guidance, "condition": condition, "beyond": beyond}


@dataclass(frozen=True)
class TokenJudgingRun:
    """A recorded float32 run of tokens with which int8 bodies are compared: their logits at its states, and the tokens
    of a separate run."""

    recorded: RecordedTokenRun

    @property
    def groups(self) -> int:
        return self.recorded.groups

    @property
    def is_far(self) -> bool:
        return False

    def run(self, graphs: Sequence[LoadedGraph]) -> TokenOutputs:
        return self.recorded.run(graphs)

    def quality(self, made: TokenOutputs) -> EndQuality:
        return self.recorded.quality(made)

    def details(self, made: TokenOutputs, quality: EndQuality, graphs: Sequence[LoadedGraph]) -> Mapping[str, Any]:
        return {"tokens": self.recorded.agreement(made)}


def record_judging_run(task: Task, plan: AnyPlan, progress: Progress = SILENT) -> JudgingRun:
    """Record the float32 run with which all bodies are compared. The steps of `plan` are assigned to the range groups
    of the calibration.

    A `LazyGraph` of the network stays open.
    """
    sampler = with_row_by_row_body(task.sampler) if task.is_large else task.sampler  # as in counting
    seeds = BODY_SEEDS[: len(task.seeds)]
    shown = prefix_stages(progress, "judgement")
    if isinstance(plan, TokenPlan):
        batch = SeedBatch.from_manifest(sampler.bundle.manifest, seeds, task.conditions)
        return TokenJudgingRun(record_token_run(sampler, plan, batch, shown))
    recorded = record_run(
        task.with_all_networks(sampler), check_compiled(plan), seeds, task.conditions, shown, task.network
    )
    if sampler.bundle.manifest.conditions:
        recorded = replace(recorded, differences=float_differences(recorded, sampler.network().graph))
    return ContinuousJudgingRun(recorded, sampler.bundle.manifest)


def _worst_difference(steps: Sequence[Difference | None]) -> Difference | None:
    """Return the difference at the step where it is preserved worst, rounded to significant digits. None if no step has
    one."""
    each = worst_difference(steps)
    return each and Difference(each.step, round(each.gain, 3), round(each.ratio, 2), round(each.share, 4))
