"""Trajectories of a denoiser along the plan that it will run when deployed. Ranges and fits are measured on them.

The runtime's own sampler runs them, so the body sees exactly the deployed inputs, including all branches. They are
streamed in batches: memory depends on the batch, not on the number of trajectories. Noise and conditions of a
trajectory follow from its seed, whatever else is in the batch.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial

from fewstep.measure.rollouts.conditions_file import ConditionRecords
from fewstep.measure.rollouts.record_sizes import record_shapes, select_records, sizes_of_conditions, split_equal
from fewstep.measure.rollouts.seeds import draw_conditions
from fewstep.plans.any_plan import AnyPlan
from fewstep.plans.plan import DENOISER
from fewstep.runtime.backends import Arrays
from fewstep.runtime.progress import SILENT, Progress
from fewstep.runtime.sampling.execute import StepState
from fewstep.runtime.sampling.sampler import Sampler
from fewstep.runtime.sampling.slots import Slots
from fewstep.runtime.sampling.step_call import GraphCall

BATCH = 8  # trajectories at once
RUN_STRIDE = 2**32  # difference between the seeds of a trajectory's runs


@dataclass(frozen=True)
class BodyCall:
    """One call of a network's body for a batch of trajectories.

    `feeds` and `tensors` are its inputs and outputs by name, [branches * B, ...], with the branches of `state.step` one
    after the other, or those of one branch. `is_last` says whether it is the network's last call along these
    trajectories.
    """

    state: StepState
    seeds: Sequence[int]
    feeds: Arrays
    tensors: Arrays
    is_last: bool = False


def roll_out(
    sampler: Sampler,
    plan: AnyPlan,
    seeds: Sequence[int],
    progress: Progress = SILENT,
    batch: int = BATCH,
    conditions: ConditionRecords | None = None,
    sizes: Sequence[Mapping[str, int]] = (),
    runs: int = 1,
    network: str = DENOISER,
    on_end: Callable[[StepState, ConditionRecords], object] | None = None,
) -> Iterator[BodyCall]:
    """Yield each call of the body of `network` along `plan`, which runs once per seed, in batches of trajectories. A
    step whose branches differ in the lengths of their texts has a call for each.

    A trajectory of a denoiser that carries tensors may have several `runs`. Each continues the previous one, with new
    noise and newly drawn conditions.

    `network` is one of the networks named in the plan's steps; the steps of other networks are run too, but not
    yielded. `conditions` [len(seeds), *shape] belong to the seeds; with None they are random, determined by the seeds.
    The body's graph may return more tensors than the output (see `observe.expose_tensors`).

    `sizes` are the sizes of x, one for each seed. If there are none, they follow from the conditions, or are the
    sampler's. Successive seeds of one size are a batch.

    `on_end` receives the last state of each batch, and the conditions of its last run.
    """
    last = max((index for index in range(len(plan.steps)) if plan.steps[index].network == network), default=0)
    carried: Slots | None
    for place in split_seeds(seeds, batch, conditions, sizes):
        calls: list[GraphCall] = []
        part, given = seeds[place], None if conditions is None else select_records(conditions, place)
        watched, carried = replace(sampler, on_call=partial(_keep_call, calls, network, plan)), None
        derived = sizes_of_conditions(sampler.bundle.manifest, given or {})
        watched = watched.with_options(adapters=None, **(sizes[place.start] if sizes else derived))
        for run in range(runs):
            run_seeds = [(seed + run * RUN_STRIDE) % 2**64 for seed in part]
            values = draw_conditions(watched.bundle.manifest, run_seeds) if given is None else given
            for state in watched.steps(plan, run_seeds, values, plan.guidance, carried=carried):
                is_last_step = run == runs - 1 and state.index == last
                while calls:  # empty if the step was another network's
                    feeds, tensors, _ = calls.pop(0)
                    yield BodyCall(state, part, feeds, tensors, is_last_step and not calls)
            carried = state.slots
        if on_end is not None:
            on_end(state, values)
        progress("trajectories", place.stop, len(seeds))


def split_seeds(
    seeds: Sequence[int],
    batch: int,
    conditions: ConditionRecords | None = None,
    sizes: Sequence[Mapping[str, int]] = (),
) -> Iterator[slice]:
    """Split the places of the seeds, in order, into batches of at most `batch` samples of one size. `conditions` and
    `sizes` are as for `roll_out`."""
    shapes = record_shapes(conditions) if conditions else [()] * len(seeds)
    named = [tuple(size.items()) for size in sizes] or [()] * len(seeds)
    return split_equal(list(zip(shapes, named, strict=True)), batch)


def trajectories_text(count: int) -> str:
    """Return "1 trajectory", "2 trajectories", etc."""
    return "1 trajectory" if count == 1 else f"{count} trajectories"


def _keep_call(calls: list[GraphCall], network: str, plan: AnyPlan, index: int, call: GraphCall) -> None:
    """Add the call to `calls` if its step is of the network."""
    if plan.steps[index].network == network:
        calls.append(call)
