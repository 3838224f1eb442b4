"""Estimates of the evaluations and the time of a calibration, before it starts."""

from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass, replace

from fewstep.calibration.float_runs import TIMED_STEPS, further_seeds
from fewstep.calibration.graph_forms import has_own_graphs, has_weights_to_store
from fewstep.calibration.precision.precision_search import estimate_evaluations
from fewstep.calibration.precision.timeable_targets import bound_applies, timeable_targets
from fewstep.calibration.second_moments import TRAJECTORIES
from fewstep.calibration.task import Task
from fewstep.graph.files.io import exceeds_one_file
from fewstep.graph.files.stored_graphs import load_stored
from fewstep.graph.files.weights import weight_bytes
from fewstep.measure.estimate import Estimate, seconds_per_evaluation
from fewstep.measure.rollouts.on_demand import close
from fewstep.measure.rollouts.recorded_run import AT_ONCE
from fewstep.measure.rollouts.seeds import BODY_SEEDS, JUDGE_SEEDS, OPERATION_SEEDS, OTHER_SEEDS
from fewstep.plans.errors import UserError
from fewstep.runtime.backends import RUN_ONCE
from fewstep.runtime.bundle.networks import shared_graphs
from fewstep.runtime.kinds.companions import TEXT_ENCODER

LEAST_MEASURED = 1.0  # seconds of evaluations from which the work besides them is measured too
ROUNDING = 25e-9  # seconds in which a large network's ranges are chosen and its weights rounded, by bytes of weights
ATTENTION_BODIES = 2  # bodies with products of attention in int8 that are judged besides a target's first body


@dataclass(frozen=True)
class Cost:
    """The number of evaluations of a calibration of all networks, and their speed.

    counted: evaluations of one sample to find ranges.
    moments: evaluations of one sample to round weights.
    errors: evaluations of one sample to measure the errors of operations.
    references: float32 evaluations of one sample, for the samples with which bodies are compared.
    judged: evaluations of one sample to compare each body with float32.
    searched: evaluations of AT_ONCE samples to meet a bound; None without a bound.
    seconds: measured duration of one float32 evaluation of one sample.
    recording: seconds of counting activations, adding second moments and rounding weights, besides the evaluations;
        None if it was not measured, as for a large network and for short work.
    opened: how often a session of a large network is loaded. Loading one takes about as long as an evaluation.
    rounded: bytes of the float weights of large networks, counted once for each body for which they are rounded.
    """

    counted: int
    moments: int
    errors: int
    references: int
    judged: int
    searched: int | None
    seconds: float
    opened: int = 0
    rounded: int = 0
    recording: float | None = None

    @property
    def estimate(self) -> Estimate:
        """The estimated duration of all evaluations, at the speed of float32, and of the work between them."""
        count = (
            self.counted + self.moments + self.errors + self.references + self.judged + AT_ONCE * (self.searched or 0)
        )
        opening = self.opened * self.seconds + ROUNDING * self.rounded
        return Estimate(count, count * self.seconds, preparation=opening + (self.recording or 0.0))


def estimate_cost(tasks: Sequence[Task], seconds: float | None = None) -> Cost:
    """Estimate the cost of calibrating the networks of a bundle. The last task is the denoiser's.

    seconds: of one evaluation of one sample; None runs two evaluations to measure it.
    """
    task = tasks[-1]  # each network has whole trajectories
    steps, large = len(task.plan.steps), [network for network in tasks if exceeds_one_file(network.prepared)]
    bodies = sum(len(network.targets) + _attention_bodies(network) + _count_judged_graphs(network) for network in tasks)
    tried = sum(min(len(network.operations), operation_error_runs(network)) * len(network.targets) for network in tasks)
    written = sum(len(network.targets) for network in tasks if network.sampler.bundle.manifest.space.has_squared_error)
    compared = (1 + bool(task.sampler.bundle.manifest.conditions)) * len(OTHER_SEEDS[: len(task.seeds)])
    operation_seeds = len(OPERATION_SEEDS[: len(task.seeds)])
    judged, further = steps * len(BODY_SEEDS[: len(task.seeds)]), sum(map(len, further_seeds(task)))
    cost = Cost(
        counted=len(tasks) * steps * len(task.seeds),
        moments=len(tasks) * steps * min(TRAJECTORIES, len(task.seeds)),
        errors=steps * operation_seeds * tried,
        references=len(tasks) * (_reference_calls(task) * judged + steps * (operation_seeds + further + compared)),
        judged=_judging_calls(task) * judged * bodies + (judged + steps * further) * written,
        searched=_search_evaluations(task),
        seconds=0.0 if seconds is None else seconds,
        opened=sum(
            2 + 2 * len(network.targets) + _attention_bodies(network) for network in large
        ),  # 2: ranges and moments
        rounded=sum(
            weight_bytes(network.prepared) * (len(network.targets) + _attention_bodies(network)) for network in large
        ),
    )
    if seconds is not None:
        return cost
    cost = replace(cost, seconds=_evaluation_seconds(task, cost.estimate.evaluations))
    is_short = cost.estimate.sampling < LEAST_MEASURED
    return cost if large or is_short else replace(cost, recording=_time_recording(tasks, cost))


def _time_recording(tasks: Sequence[Task], cost: Cost) -> float:
    """Return the seconds of counting, second moments and rounding of all networks. The time of each is measured on the
    first evaluations, and workers are not counted."""
    from fewstep.calibration.measured_work import measure_work  # only for long work

    total = 0.0
    for task in tasks:
        work, steps = measure_work(task, cost.seconds), sum(step.network == task.network for step in task.plan.steps)
        followed = min(TRAJECTORIES, len(task.seeds))
        total += steps * (len(task.seeds) * work.counting + followed * work.moments)
        total += len(task.targets) * work.rounding
    return total


def operation_error_runs(task: Task) -> int:
    """Return the maximum number of runs that measure the errors of a network's operations for one target.

    For a large network, these runs take at most as many evaluations as all other stages together, so that they do not
    dominate a calibration along few trajectories. Their number is at least `CalibrationPolicy.fewest_error_runs`. For
    other networks it is `CalibrationPolicy.most_error_runs`, whatever the number of trajectories.
    """
    policy = task.policy
    if not exceeds_one_file(task.prepared):
        return policy.most_error_runs
    count, targets = len(task.seeds), max(1, len(task.targets))
    judged = _judging_calls(task) * len(BODY_SEEDS[:count]) * targets
    others = count + min(TRAJECTORIES, count) + judged  # counted in trajectories, since all stages run whole plans
    return max(
        policy.fewest_error_runs, min(policy.most_error_runs, others // (targets * len(OPERATION_SEEDS[:count])))
    )


def _attention_bodies(task: Task) -> int:
    """Return how many bodies with attention in int8 are compared with float32, for all targets together. With a bound
    on quality or speed there are none, since attention then stays in float."""
    targets = [target for target in task.targets if target.scheme.int8_attention]
    if not targets or task.bound is not None:
        return 0
    from fewstep.calibration.lowering.attention_pairs import find_large_attention  # for these targets alone

    return ATTENTION_BODIES * len(targets) if find_large_attention(task.prepared) else 0


def _count_judged_graphs(task: Task) -> int:
    """Return how many graphs of their own that are judged by samples are made for all targets together: of each target
    for a CPU a conditioner, a prologue and, with prompts, a text encoder, as far as they have weights."""
    manifest, bundle = task.sampler.bundle.manifest, task.sampler.bundle
    if task.bound is not None or not manifest.space.has_squared_error:
        return 0
    own = [target for target in task.targets if has_own_graphs(target)]
    has_text = bool(task.prompts) and task.all_networks is None
    entries = shared_graphs(manifest)
    judged = [entries[name] for name in (*RUN_ONCE, *[TEXT_ENCODER] * has_text) if name in entries]
    weighted = [entry for entry in judged if entry.data or has_weights_to_store(load_stored(bundle, entry))]
    return len(own) * len(weighted)


def _judging_calls(task: Task) -> int:
    """Return the number of evaluations of an int8 body per step and sample that its comparison with float32 needs: one
    along its own trajectory and, if the denoiser takes conditions, two at the states of the float32 trajectory, with
    the same and with other conditions."""
    return 3 if task.sampler.bundle.manifest.conditions else 1


def _reference_calls(task: Task) -> int:
    """Return the number of float32 evaluations per step and sample that the comparison with int8 bodies needs: one on
    the float32 trajectory and, if the denoiser takes conditions, one with other conditions."""
    return 2 if task.sampler.bundle.manifest.conditions else 1


def records_first(tasks: Sequence[Task]) -> bool:
    """Return whether the float32 runs are recorded before activations are counted, so that one of their evaluations can
    be timed for the estimate. This is the case for a single large network, whose session takes long to open, if the
    plan has at least TIMED_STEPS steps, the samples have a squared error, and no target is without floats."""
    task = tasks[-1]
    if len(tasks) > 1 or len(task.plan.steps) < TIMED_STEPS:
        return False
    has_errors = task.sampler.bundle.manifest.space.has_squared_error
    return has_errors and not task.no_floats and exceeds_one_file(task.prepared)


def announce_evaluations(tasks: Sequence[Task], seconds: float) -> None:
    """Announce the duration of a calibration if it is long. seconds: the measured time of one evaluation of one
    sample."""
    estimate_cost(tasks, seconds).estimate.announce()


def announce_cost(tasks: Sequence[Task]) -> None:
    """Announce the duration of a calibration if it is long. The error of an evaluation that fails is ignored here,
    because the calibration will raise it again and name the tensor. The graphs opened for the estimate are closed,
    because the calibration opens its own."""
    with suppress(UserError):
        estimate_cost(tasks).estimate.announce()
    for task in tasks:
        close(task.sampler.network().graph)


def _search_evaluations(task: Task) -> int | None:
    """Return the approximate number of evaluations of AT_ONCE samples in a search; None without a bound."""
    bound, judges, here = task.bound, -(-len(JUDGE_SEEDS) // AT_ONCE), timeable_targets()
    if bound is None:
        return None
    return sum(
        estimate_evaluations(len(task.plan.steps), len(task.operations), judges, target.name in here, task.policy)
        for target in task.targets
        if bound_applies(target, bound)
    )


def _evaluation_seconds(task: Task, count: int) -> float:
    """Measure the seconds of one evaluation of the first trajectory, at its size, to estimate `count` of them."""
    sampler = task.sampler.with_options(adapters=None, **task.sizes[0]) if task.sizes else task.sampler
    return seconds_per_evaluation(sampler, task.plan, task.conditions, task.seeds[:1], count)
