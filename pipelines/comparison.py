"""Compare the plan scheduler:N of a recorded denoiser with the pipeline's own samples, from the same noise."""

import logging
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from time import perf_counter
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from fewstep.graph.resource_needs import format_duration
from fewstep.pipelines.compared_size import are_comparable, few_steps
from fewstep.pipelines.network_outputs import NetworkOutputs, RecordedOutputs
from fewstep.pipelines.recording.call_record import CallRecord, SchedulerStep
from fewstep.pipelines.recording.components import BuiltPipeline
from fewstep.pipelines.recording.own_noise import check_own_noise
from fewstep.pipelines.recording.record import record
from fewstep.pipelines.recording.settings import LENGTH, SHORTNESS, STEP_COUNT, CallSettings
from fewstep.pipelines.recording.stand_ins import LengthError, is_small, recording_error
from fewstep.pipelines.relations.adapter import RecordedNetwork
from fewstep.pipelines.relations.arguments import branch_names
from fewstep.pipelines.relations.drawn_noise import keep_draws
from fewstep.pipelines.relations.held_part import read_hold
from fewstep.pipelines.relations.networks import RecordedNetworks, check_parts
from fewstep.pipelines.relations.pipeline_scheduler import PipelineScheduler
from fewstep.pipelines.rounding import MOST_OF_ROUNDING, OF_TIMES, ROUNDING, TOLERANCE, is_rounding, relative_difference
from fewstep.plans.errors import UserError
from fewstep.plans.guidance import Branches
from fewstep.plans.plan import Plan, Step
from fewstep.runtime.sampling.execute import Hold, StepNetwork, execute, finish

LOG = logging.getLogger("fewstep")
Array = NDArray[np.floating[Any]]
LONG = "comparing samples with those of %s takes about %s more"
ROUNDED = "%s: a first x that differs by %.1g of itself changes the final one by %.1g of its range after %d steps"
SEED = 11
DEFAULT_TIMESTEPS = 1000  # of schedulers, if their config has no number


@dataclass(frozen=True)
class RecordedNoise:
    """The draws of a pipeline: its first x, and the noise of its scheduler's steps."""

    first: Array
    later: Sequence[Array]


def compare_samples(
    built: BuiltPipeline,
    modules: RecordedNetworks,
    settings: CallSettings,
    batch: Mapping[str, Any],
    scheduler: PipelineScheduler,
) -> dict[int, float]:
    """Return the largest difference of the plan's final x from the pipeline's, relative to its range, by steps.

    Both run the network with its weights, a small one also for another number of steps. `batch` are settings for
    several samples. The plan receives each text as it is padded in that batch, and the pipeline also runs with that
    text alone. A large network, whose calls take long, runs for `FEWEST_STEPS` and its shortest text only, and one that
    is too large to run for none; in all these calls the plan must pass the arguments of the pipeline to the network.
    Raises UserError above `TOLERANCE`, and if x does not start from noise.
    """

    def compare(call: Mapping[str, Any], padded: CallRecord | None = None, rows: slice = slice(None)) -> CallRecord:
        start, run = perf_counter(), run_networks(built, modules, call)
        if few is not None:
            LOG.warning(LONG, built.name, format_duration(perf_counter() - start))
        network = NetworkOutputs(padded or run.record, modules, rows)
        difference = compare_run(built, modules, call, scheduler, run, network)
        count = call.get(STEP_COUNT, len(run.record.steps))
        differences[count] = max(difference, differences.get(count, 0.0))
        return run.record

    differences, few = dict[int, float](), few_steps(modules, settings)
    lengths = (LENGTH, SHORTNESS) if settings.forms.has_free_length else ()
    calls = [settings.of(None, batch), *map(settings.of, lengths)]
    more = [] if settings.other_steps is None else [settings.of(None, {STEP_COUNT: settings.other_steps})]
    texts = list(enumerate(settings.texts))
    if few is not None:
        for call in (settings.of(), *calls, *more):
            check_updates(built, modules, call, scheduler)
        if not are_comparable(module.network for module in modules.modules.values()):
            return {}
        calls, texts = [settings.of(None, few)] if not texts else [], texts[-1:]
    records = [compare(call) for call in calls]
    if few is not None and texts:
        records = [record(built, settings.of(None, few), SEED)]  # conditions that follow from texts need no network
    try:
        for row, text in texts:
            compare({**text, **(few or {})}, records[0], slice(row, row + 1))
    except UserError as error:
        what = f"the network of {built.name} reads the padding of shorter texts: {error.what}"
        raise LengthError(what) from error
    if more and all(is_small(module.network) for module in modules.modules.values()):
        compare(more[0])
    return differences


@dataclass(frozen=True)
class ComparedRun:
    """A recording with the network's weights, with the noise that the scheduler's steps drew. `probes`: a recording of
    the same call with random outputs, whose independent values show the weights of the branches."""

    record: CallRecord
    draws: Sequence[Array]
    probes: CallRecord


def run_networks(built: BuiltPipeline, modules: RecordedNetworks, settings: Mapping[str, Any]) -> ComparedRun:
    networks = {name: module.network for name, module in modules.modules.items()}
    with keep_draws(type(built.pipeline.scheduler)) as draws:
        run = record(built, settings, SEED, networks=networks)
    return ComparedRun(run, draws, record(built, settings, SEED))


def compare_call(
    built: BuiltPipeline, modules: RecordedNetworks, settings: Mapping[str, Any], scheduler: PipelineScheduler
) -> float:
    """Compare the final x of one call with that of its scheduler's plan. The networks run with their weights."""
    run = run_networks(built, modules, settings)
    return compare_run(built, modules, settings, scheduler, run, NetworkOutputs(run.record, modules))


def compare_run(
    built: BuiltPipeline,
    modules: RecordedNetworks,
    settings: Mapping[str, Any],
    scheduler: PipelineScheduler,
    made: ComparedRun,
    network: StepNetwork,
) -> float:
    """Compare the final x of a run with that of a plan along a network, from the same noise. Returns their difference.

    Raises UserError if it is above `TOLERANCE`, unless rounding explains it: the plan has the pipeline's x after each
    step if its network gets the pipeline's own x, up to what rounding of that x changes, and a first x that differs by
    its rounding changes the final one as much.
    """

    def run_plan(network: StepNetwork) -> tuple[Array, Array]:
        return sample_plan(built, modules, settings, scheduler, made, lambda _: network)

    def lead(factor: float) -> list[Array]:
        """Return x before each step and at the end, if the network gets the pipeline's own x times a factor."""
        states = list[Array]()

        def call_with_own_x(index: int, step: Step, u: Array) -> Sequence[Array]:
            states.append(u)
            return network(index, step, own[index] * np.float32(factor))

        final, _ = run_plan(call_with_own_x)
        return [*states, final]

    def call_with_rounding(index: int, step: Step, u: Array) -> Sequence[Array]:
        return network(index, step, u if index else u * np.float32(1 + ROUNDING))

    mine, theirs = run_plan(network)
    difference = relative_difference(mine, theirs)
    if difference <= TOLERANCE:
        return difference
    own = [*(_network_x(step, modules) for step in made.record.steps), theirs]
    is_led = all(map(is_rounding, lead(1), own, lead(1 + ROUNDING)))
    by_rounding = relative_difference(run_plan(call_with_rounding)[0], mine) if is_led else 0.0
    if not difference <= MOST_OF_ROUNDING * by_rounding:
        what = f"the samples of {built.name} and of its scheduler's plan differ by {difference:.2g} of their range"
        raise recording_error(f"{what} after {len(made.record.steps)} steps")
    LOG.warning(ROUNDED, built.name, ROUNDING, by_rounding, len(made.record.steps))
    return difference


def sample_plan(
    built: BuiltPipeline,
    modules: RecordedNetworks,
    settings: Mapping[str, Any],
    scheduler: PipelineScheduler,
    made: ComparedRun,
    network_of: Callable[[Plan], StepNetwork],
) -> tuple[Array, Array]:
    """Return the final x of the plan of a run's scheduler, and that of the run, from the same noise. `network_of`
    returns the network of the plan."""
    name, run = built.name, made.record
    relations = {component: module.found for component, module in modules.modules.items()}
    if not any(bool(call.output.any()) for step in run.steps for call in step.calls):
        LOG.warning("the network of %s returns zeros: the comparison of its samples shows nothing", name)
    weights = check_parts(name, relations, made.probes, "seed")
    plan = _find_plan(built, scheduler, modules.quiet, run, weights, settings.get(STEP_COUNT))
    for step, own in zip(plan.steps, run.steps, strict=True):
        if abs(step.time - own.time) > OF_TIMES * max(1.0, abs(own.time)):
            what = f"{name} steps at time {own.time:.6g}, and the plan of its scheduler at {step.time:.6g}"
            raise recording_error(what)
    _check_networks(name, plan, run, modules)
    first = _network_x(run.steps[0], modules) / _start_factor(plan)
    noise = RecordedNoise(first, scheduler.select_draws(made.draws, len(run.steps)))
    check_own_noise(name, run, int(scheduler.config.get("num_train_timesteps", DEFAULT_TIMESTEPS)))
    if not run.starts_from_picture:
        _check_noise(name, noise.first)
    hold = read_hold(name, run, plan, _network_x(run.steps[-1], modules), noise.first)
    with torch.no_grad():
        mine = finish(plan, execute(plan, network_of(plan), _replay(noise), hold=hold), hold=hold)
    return mine, _final_x(run, hold)


def check_updates(
    built: BuiltPipeline, modules: RecordedNetworks, settings: Mapping[str, Any], scheduler: PipelineScheduler
) -> None:
    """Raise UserError unless the scheduler's plan makes the same steps as a call. With random outputs in place of the
    network's, the plan must feed the network the same inputs, and end at the same x. No network runs."""
    with keep_draws(type(built.pipeline.scheduler)) as draws:
        run = record(built, settings, SEED)
    network = RecordedOutputs(run, modules, built.name)
    compare_run(built, modules, settings, scheduler, ComparedRun(run, draws, run), network)


def _find_plan(
    built: BuiltPipeline,
    scheduler: PipelineScheduler,
    module: RecordedNetwork,
    run: CallRecord,
    weights: Sequence[Sequence[float]],
    asked: int | None,
) -> Plan:
    """Return the plan that reproduces the steps of a recorded run: a plan of as many steps as the run has, or of as
    many as the call asked for, since a solver may evaluate the network several times per step. Raises UserError if
    neither does."""
    names, x_shape = branch_names(module.found.branches, module.arguments), tuple(run.steps[0].sample.shape[1:])
    guidance = None
    if len(names) > 1:
        guidance = Branches({name: tuple(float(row[number]) for row in weights) for number, name in enumerate(names)})
    problems: list[UserError] = []
    for count in dict.fromkeys((len(run.steps), asked or len(run.steps))):
        try:
            plan = scheduler.plan(count, guidance, x_shape)
        except UserError as error:
            problems.append(UserError(f"the plan of {built.name}'s scheduler: {error.what}", error.fix))
            continue
        if len(plan.steps) == len(run.steps):
            return plan
        what = f"{built.name} takes {len(run.steps)} steps, and its scheduler's plan {len(plan.steps)}"
        problems.append(recording_error(what))
    raise problems[0]


def _network_x(step: SchedulerStep, modules: RecordedNetworks) -> Array:
    """Return x as the network receives it in a step. Some schedulers scale it."""
    x: Array = step.calls[0].leaves[modules.at(step).found.x][: len(step.sample)].numpy()
    return x


def _check_networks(name: str, plan: Plan, run: CallRecord, modules: RecordedNetworks) -> None:
    """Raise UserError unless each step of a plan runs the network that the pipeline calls."""
    for step, own in zip(plan.steps, run.steps, strict=True):
        if modules.is_noisy(step.lam) != modules.runs_first(own):
            raise recording_error(f"{name} calls {own.calls[0].component} at time {own.time:.6g}, unlike its plan")


def _final_x(run: CallRecord, hold: Hold | None) -> Array:
    """Return the pipeline's final x. Pipelines overwrite a held part once more after the scheduler's last step. If the
    call returns x, the result is used; otherwise the held value of the last step."""
    result: Array = run.steps[-1].result.numpy()
    returned = run.returned[0] if isinstance(run.returned, tuple) else None
    if hold is None:
        return result
    if isinstance(returned, Tensor) and tuple(returned.shape) == result.shape:
        return returned.numpy()
    held: Array = np.where(hold.mask, hold.value_at(len(run.steps)), result)
    return held


def _start_factor(plan: Plan) -> float:
    """Return the factor by which the plan's initial noise is multiplied to give the network's first input. Raises
    UserError for a plan that does not start from a single draw of noise."""
    if plan.given or len(plan.start_draws) != 1:
        raise recording_error(f"plan {plan.name} does not start from one draw")
    return sum(number * row[0] for number, row in zip(plan.steps[0].input, plan.start, strict=True))


def _check_noise(name: str, noise: Array) -> None:
    """Raise UserError unless the first x is independent standard normal noise, as far as its mean, its deviation,
    repeated values and correlations along its axes show."""
    size = noise.size
    if abs(noise.mean()) > 6 / np.sqrt(size) or abs(noise.std() - 1) > 6 / np.sqrt(2 * size):
        raise recording_error(
            f"{name} does not start from standard normal noise: it has mean {noise.mean():.3g} and standard deviation "
            f"{noise.std():.3g}"
        )
    # 10^7 independent draws in float32 have about 10% of equal ones
    if size <= 10**7 and noise.dtype.itemsize >= 4 and len(np.unique(noise)) < 0.75 * size:
        raise recording_error(f"{name} does not start from independent noise: many of its values are equal")
    for axis in range(noise.ndim):
        if _is_correlated(noise, axis):
            raise recording_error(f"{name} does not start from independent noise: it is correlated along axis {axis}")


def _is_correlated(noise: Array, axis: int) -> bool:
    """Return True if the elements of a standard normal sample are correlated with those at some distance from them
    along an axis.

    The mean t of n products of independent normal numbers has P(|t| > b) <= 2 exp(-n b^2 / (2 (1 + 2 b))), by
    Bernstein's inequality for quadratic forms. The bound b makes that 2 exp(-18).
    """
    length = noise.shape[axis]
    if length < 2:
        return False
    spectrum = np.fft.rfft(noise.astype(np.float64), n=2 * length, axis=axis)
    power = np.moveaxis(np.abs(spectrum) ** 2, axis, -1).reshape(-1, length + 1).sum(axis=0)
    sums = np.fft.irfft(power, n=2 * length)[1:length]  # of products at the distances 1 to length - 1
    counts = noise.size // length * (length - np.arange(1, length))
    bound = 36 / counts + np.sqrt((36 / counts) ** 2 + 36 / counts)
    return bool((np.abs(sums / counts) > bound).any())


def _replay(noise: RecordedNoise) -> Any:
    later, known = iter(noise.later), {0: noise.first}

    def draws(number: int) -> Array:
        if number not in known:
            drawn = next(later, None)
            if drawn is None:
                raise recording_error("a scheduler drew less noise than its plan")
            known[number] = drawn
        return known[number]

    return draws
