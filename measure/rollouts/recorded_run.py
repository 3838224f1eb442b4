"""Judge a set of graphs: run seeds along one plan, with any graph for each range group.

The final sample is compared with float32's from the same noise (closed loop), since errors of single steps neither add
up nor keep their order along the way.
"""

from collections.abc import Collection, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fewstep.graph.graph import GROUP, varies_per_call
from fewstep.measure.rollouts.conditions_file import ConditionRecords
from fewstep.measure.rollouts.record_sizes import records_of_one_size, split_seeds_by_size
from fewstep.measure.rollouts.reference_run import ReferenceRun, run_reference
from fewstep.measure.rollouts.seeds import JUDGE_SEEDS, SEARCH_SEEDS, SeedBatch
from fewstep.plans.any_plan import AnyPlan
from fewstep.plans.plan import DENOISER, Plan
from fewstep.plans.transforms.repeat import repeat_compiled
from fewstep.runtime.backends import Arrays, LoadedGraph
from fewstep.runtime.kinds.graph_entry import CARRIED
from fewstep.runtime.progress import SILENT, Progress
from fewstep.runtime.sampling.execute import Array, StepState, carry_in
from fewstep.runtime.sampling.feeds import tensor_name
from fewstep.runtime.sampling.sampler import Sampler
from fewstep.runtime.sampling.separate_branches import SeparateBranches
from fewstep.runtime.sampling.slots import Slots
from fewstep.runtime.sampling.step_call import Call, GraphCall, StepCall, dispatch_by_group, stack_branches

AT_ONCE = len(SEARCH_SEEDS)  # samples per run, so that judging takes no more memory than searching
RUNS = 4  # runs of a denoiser that carries tensors: the first starts with zeros, and the later ones fill its past


def runs_per_trajectory(plan: AnyPlan) -> int:
    """Return how often a plan runs in one trajectory. Each run continues the previous one."""
    return RUNS if any(bank.is_kept for bank in plan.banks) else 1


@dataclass(frozen=True)
class RecordedRun(ReferenceRun):
    """A float32 run along a plan with range groups, made by `record_run`. Other graphs can be run at its states.

    feeds: the inputs of a body except x at each step, including the range group: those of one call of all branches, or
        of a call for each branch, if their texts differ in length.
    ports: the names of the body's input x and of its output.
    differences: the differences between branches and between conditions in float32 at each step, from
        `output_differences.float_differences`. If it is empty, they are not compared.
    slots: the carried tensors at the start.
    network: the name of the network whose steps a body's graphs run.
    float32: the float32 network for the steps of other networks; None if there are none.
    """

    feeds: tuple[tuple[Arrays, ...], ...]
    ports: tuple[str, str]
    differences: tuple[Array, ...] = ()
    slots: Slots | None = None
    network: str = DENOISER
    float32: StepCall | None = None

    def with_setup(self, sampler: Sampler) -> "RecordedRun":
        """Return the run with the inputs that the conditioner and the prologue of another sampler compute. A body then
        runs with them, and is compared with the same samples."""
        calls = self.batch.at_size(sampler).step_call(self.plan, len(self.batch.seeds), self.batch.conditions)

        def update(index: int, fed: tuple[Arrays, ...]) -> tuple[Arrays, ...]:
            computed = calls.split_feeds(index, self.plan.steps[index]) if fed else ()
            return tuple({**before, **_select_inputs(new, before)} for before, new in zip(fed, computed, strict=True))

        return replace(self, feeds=tuple(update(index, fed) for index, fed in enumerate(self.feeds)))

    @property
    def float_states(self) -> list[StepState]:
        """Float32's states at the steps of the network."""
        return [state for state in self.states if state.step.network == self.network]

    @property
    def groups(self) -> int:
        return 1 + max(step.group for step in self.plan.steps if step.network == self.network)

    def body_feeds(self, state: StepState, u: Array | None = None) -> list[Arrays]:
        """Return all inputs of each call of a body at a step of float32's run: [branches * B, ...], branch by branch,
        or [B, ...] for each branch. `u` replaces the x of that step."""
        before = self.states[state.index - 1].slots if state.index else self.slots
        taken = {} if before is None else carry_in(self.plan, state.step, before)
        carried = {CARRIED + name: array for name, array in taken.items()}
        u = state.u if u is None else u
        calls = self.feeds[state.index]
        x = stack_branches(u, state.step) if len(calls) == 1 else u
        return [{**fed, **carried, self.ports[0]: x} for fed in calls]

    def run(self, graphs: Sequence[LoadedGraph]) -> list[StepState]:
        """Run a body's graphs, one for each range group, and return every state. States may contain NaN or infinity."""
        call = self._route_calls(dispatch_by_group(graphs, *self.ports))
        body = StepCall(call, lambda index: self._split_feeds(index)[0], self.slots)
        if any(len(self._split_feeds(index)) > 1 for index in range(len(self.plan.steps))):
            branches = dict.fromkeys(branch for step in self.plan.steps for branch in step.branches)
            apart = {branch: partial(self._branch_feeds, branch) for branch in branches}
            body = SeparateBranches(call, body.feeds, self.slots, apart=apart)
        return list(self.batch.run(self.plan, body.step_network))

    def run_samples(self, graphs: Sequence[LoadedGraph]) -> Array:
        """Return the finished samples of a body's graphs, one for each range group."""
        return self.final_samples(self.run(graphs))

    def _route_calls(self, body: Call) -> Call:
        """Return a function that calls `body` at the steps of the run's network, and float32 at those of others."""
        float32 = self.float32
        if float32 is None:
            return body

        def call(x: NDArray[Any], fed: Arrays, group: int, of: str) -> GraphCall:
            return (body if of == self.network else float32.call)(x, fed, group, of)

        return call

    def _split_feeds(self, index: int) -> tuple[Arrays, ...]:
        """Return the inputs except x of each call at a step, of any network."""
        step = self.plan.steps[index]
        if self.float32 is None or step.network == self.network:
            return self.feeds[index]
        return self.float32.split_feeds(index, step)

    def _branch_feeds(self, branch: str, index: int) -> Arrays:
        """Return the inputs except x of a branch at a step whose branches are calls of their own."""
        return self._split_feeds(index)[self.plan.steps[index].branches.index(branch)]


def _select_inputs(feeds: Arrays, names: Collection[str]) -> Arrays:
    """Return the inputs of these names, without the range group."""
    return {name: value for name, value in feeds.items() if name in names and name != GROUP}


def record_search_runs(
    sampler: Sampler,
    plan: Plan,
    records: ConditionRecords | None = None,
    held_out: ConditionRecords | None = None,
    progress: Progress = SILENT,
) -> tuple[RecordedRun, tuple[RecordedRun, ...]]:
    """Record the float32 run on which mixed precision is searched, with samples of one size, and the runs on which the
    result is judged, with the records `held_out`. The other arguments are those of `record_run`."""
    judged = [*split_seeds_by_size(JUDGE_SEEDS, held_out, AT_ONCE)]
    parts = [(SEARCH_SEEDS, records_of_one_size(records)), *((seeds, held_out) for seeds in judged)]
    search, *judges = (
        record_run(sampler, plan, seeds, own, partial(_report_progress, progress, number, len(parts)))
        for number, (seeds, own) in enumerate(parts)
    )
    return search, tuple(judges)


def record_runs(
    sampler: Sampler,
    plan: Plan,
    seeds: Sequence[int],
    records: ConditionRecords | None = None,
    progress: Progress = SILENT,
    network: str = DENOISER,
) -> tuple[RecordedRun, ...]:
    """Record the float32 runs of some seeds whose records may give samples different sizes, one run for successive
    seeds of one size. The arguments are those of `record_run`."""
    parts = [*split_seeds_by_size(seeds, records, len(seeds))]
    return tuple(
        record_run(sampler, plan, part, records, partial(_report_progress, progress, number, len(parts)), network)
        for number, part in enumerate(parts)
    )


def _report_progress(progress: Progress, number: int, recorded_runs: int, stage: str, done: int, total: int) -> None:
    """Report the progress of recorded run number `number`, counted from 0, as a part of the progress of all runs."""
    progress(stage, number * total + done, recorded_runs * total)


def record_run(
    sampler: Sampler,
    plan: Plan,
    seeds: Sequence[int],
    records: ConditionRecords | None = None,
    progress: Progress = SILENT,
    network: str = DENOISER,
) -> RecordedRun:
    """Record the float32 run of some seeds. The steps of `plan` are already assigned to range groups. If the denoiser
    carries tensors, the plan runs several times, and the samples are those of the last run.

    records: user-supplied conditions [N, *shape]; seed i takes record i mod N. Those of these seeds have one size.
    network: the name of the network whose
        bodies are compared; the steps of other networks always run in float32.
    """
    manifest, runs = sampler.bundle.manifest, runs_per_trajectory(plan)
    plan = repeat_compiled(plan, runs) if runs > 1 else plan
    batch = SeedBatch.from_manifest(manifest, seeds, records)
    sampler = batch.at_size(sampler)
    graph = sampler.network(network).body.graph
    ports = (tensor_name(graph, "x"), tensor_name(graph, "output"))
    fixed_feeds: dict[int, list[Arrays]] = {}

    def keep_feeds(index: int, call: GraphCall) -> None:
        step = plan.steps[index]
        if step.network == network:
            fixed = {
                name: value for name, value in call.feeds.items() if name != ports[0] and not varies_per_call(name)
            }
            fixed_feeds.setdefault(index, []).append(fixed | {GROUP: np.array([step.group], np.int64)})

    float_call = replace(sampler, on_call=keep_feeds).step_call(plan, len(seeds), batch.conditions)
    reference = run_reference(plan, batch, float_call.step_network, progress)
    slots = float_call.slots if plan.banks else None
    has_others = len(sampler.denoiser.networks) > 1
    float32 = sampler.step_call(plan, len(seeds), batch.conditions) if has_others else None
    feeds = tuple(tuple(fixed_feeds.get(index, ())) for index in range(len(plan.steps)))
    return RecordedRun(plan, batch, reference.states, feeds, ports, (), slots, network, float32)
