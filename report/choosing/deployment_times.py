"""The time of a call along each plan, as a multiple of a unit of time. The unit is a call of float32's network on ONNX
Runtime, and is measured in turns with the plans.

Another program that shares a core delays single calls by a time slice of the system, some milliseconds: few of the
short calls, but most of the long ones. A median therefore compares calls of different lengths wrongly. A low percentile
is the time of calls that were not delayed, and is close to the median on an idle machine. On a machine so busy that
all long calls are delayed, multiples are those of processor time, for engines that compute on the CPU.
"""

import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import permutations
from statistics import median
from time import perf_counter

import numpy as np

from fewstep.measure import estimate
from fewstep.measure.rollouts.record_sizes import records_of_one_size
from fewstep.measure.rollouts.seeds import SeedBatch
from fewstep.measure.sampling import FLOAT
from fewstep.measure.speed.contender_process import Call, Seconds, processor_time
from fewstep.measure.speed.timed_process import TimedProcess
from fewstep.plans.plan import Plan
from fewstep.report.choosing.deployment_judge import DeploymentJudge, Floats
from fewstep.report.choosing.engines import REFERENCE, TimedEngine, lean_backend, make_backend, make_network_calls
from fewstep.runtime.backends.registry import ON_CPU
from fewstep.runtime.bundle.reading import Bundle
from fewstep.runtime.kinds.sizes import default_sizes, sizes_of
from fewstep.runtime.machine.turns import Rounds, stop_after_rounds, take_turns
from fewstep.runtime.sampling.loading import load_body

LOG = logging.getLogger("fewstep")

ROUNDS, MOST_ROUNDS = 5, 15
PERCENTILE = 10.0  # of the times of a turn's calls
BUSY = 1.3  # mean time over that percentile, from which a machine is busy; one thread on an idle core has up to 1.11
SETUP = "setup of "  # in front of a plan's name: the part of its call without the body
ALIKE = 0.98  # tolerated ratio: through noise, a plan with more evaluations may seem faster by 2 %


@dataclass(frozen=True)
class CallEstimate:
    """milliseconds: the time of a call that was not delayed. slowdown: the mean time of all calls, as a multiple of
    `milliseconds`."""

    milliseconds: float
    slowdown: float

    @property
    def is_disturbed(self) -> bool:
        return self.slowdown > BUSY


def estimate_call_time(walls: Sequence[float]) -> CallEstimate:
    """Return the time of a call from the wall times of calls in seconds."""
    low = float(np.percentile(walls, PERCENTILE))
    return CallEstimate(1000 * low, float(np.mean(walls)) / low)


def milliseconds_of(calls: Sequence[Seconds], is_busy: bool) -> float:
    """Return the milliseconds of a call: the wall time without delays or, on a busy machine, the processor time of all
    threads."""
    return 1000 * processor_time(calls) if is_busy else estimate_call_time([wall for wall, _ in calls]).milliseconds


def measure_ratios(
    judging: DeploymentJudge, body: str, engine: TimedEngine, plans: Mapping[str, Plan]
) -> tuple[dict[str, float], bool]:
    """Return the time of a call along each plan relative to that of the float32 body on ONNX Runtime (the unit), and
    whether these ratios are plausible.

    They are plausible if plans with more evaluations take longer, and if few calls of the unit were delayed by other
    programs. Rounds continue until plans with more evaluations take longer, up to MOST_ROUNDS.
    """
    is_busy = estimate.measure_load(engine.threads) >= estimate.BUSY
    time_of = processor_time if is_busy and engine.backend in ON_CPU else _wall_time_without_delay
    lengths = [len(plan.steps) for plan in plans.values()]

    def are_sure(rounds: Rounds[float]) -> bool:
        pairs = permutations(zip(lengths, map(median, zip(*rounds, strict=True)), strict=True), 2)
        return all(longer >= ALIKE * shorter for (few, shorter), (many, longer) in pairs if few < many)

    def is_done(rounds: Rounds[float]) -> bool:
        judging.progress(f"timing {body}", min(len(rounds), ROUNDS), ROUNDS)
        return len(rounds) >= ROUNDS and (are_sure(rounds) or len(rounds) >= MOST_ROUNDS)

    with open_unit_process(judging, engine.threads) as unit, _open_process(judging, body, engine, plans) as process:
        unit_walls: list[float] = []

        def turn(name: str) -> float:
            calls, of_unit = process.run_turn(call=name), unit.run_turn()
            unit_walls.extend(wall for wall, _ in of_unit)
            return time_of(calls) / time_of(of_unit)

        rounds = take_turns([partial(turn, name) for name in plans], is_done)
    is_plausible, is_disturbed = are_sure(rounds), estimate_call_time(unit_walls).is_disturbed
    if not is_plausible:
        LOG.warning(
            "times of %s do not grow with the number of evaluations, so they are measured again once the machine is "
            "idle: end other programs",
            body,
        )
    elif is_disturbed:
        LOG.info("other programs delayed %s", body)  # the unit's warning says it for all
    is_sure = is_plausible and not is_disturbed
    return {name: median(each) for name, each in zip(plans, zip(*rounds, strict=True), strict=True)}, is_sure


def _wall_time_without_delay(calls: Sequence[Seconds]) -> float:
    return estimate_call_time([wall for wall, _ in calls]).milliseconds


def measure_unit(judging: DeploymentJudge, threads: int) -> float:
    """Measure the unit in milliseconds: a call of float32's network on onnxruntime with this number of threads.

    Logs a warning if other programs delay its calls.
    """
    with open_unit_process(judging, threads) as process:
        turns = take_turns([process.wall_times], stop_after_rounds(ROUNDS))
    time = estimate_call_time([wall for (turn,) in turns for wall in turn])
    if time.is_disturbed:
        LOG.warning(
            "this machine is busy: other programs make calls take %.1fx their time on average. The times below are "
            "those of the fastest tenth of the calls, and may still be too long. The first `choose` on the idle "
            "machine measures them again",
            time.slowdown,
        )
    return time.milliseconds


def measure_opening(judging: DeploymentJudge, threads: int) -> float:
    """Return the seconds that the process of `open_unit_process` takes to start and to load its graphs."""
    start = perf_counter()
    with open_unit_process(judging, threads):
        return perf_counter() - start


def open_unit_process(judging: DeploymentJudge, threads: int) -> TimedProcess:
    """Start the float32 body on ONNX Runtime in a separate process. The time of its call is the unit of all ratios."""
    manifest = judging.bundle.manifest
    sizes = {"batch": judging.most_rows, **default_sizes(manifest.x_shape, manifest.sizes)}
    engine = TimedEngine(REFERENCE, threads, None)
    return TimedProcess(FLOAT, partial(make_network_calls, judging.bundle, FLOAT, engine, sizes))


def _open_process(judging: DeploymentJudge, body: str, engine: TimedEngine, plans: Mapping[str, Plan]) -> TimedProcess:
    """Start a body on an engine in a separate process, with a call for each plan."""
    given = (judging.bundle, body, engine, judging.most_rows, dict(plans), _timed_batch(judging))
    return TimedProcess(body, partial(make_sampler_calls, *given))


def _timed_batch(judging: DeploymentJudge) -> SeedBatch:
    """Return the seeds and conditions of the calls that are timed. One call has samples of one size."""
    records = records_of_one_size(judging.records)
    return SeedBatch.from_manifest(judging.bundle.manifest, range(judging.batch), records)


def timed_sizes(judging: DeploymentJudge) -> dict[str, int]:
    """Return the free sizes of the samples that are timed, by name; empty for a bundle without any."""
    return sizes_of(_timed_batch(judging).x_shape, judging.bundle.manifest) or {}


def make_sampler_calls(
    bundle: Bundle,
    body: str,
    engine: TimedEngine,
    rows: int,
    plans: Mapping[str, Plan],
    batch: SeedBatch,
    is_lean: bool = False,
) -> dict[str, Call]:
    """Return a function for each plan that samples from noise, and one, with the name after SETUP, that runs only
    conditioner and prologue. They are called in a separate process.

    is_lean: whether the engine holds the weights once (`lean_backend`).
    """
    backend = make_backend(engine, rows)
    sampler = batch.at_size(load_body(bundle, body, lean_backend(backend) if is_lean else backend))

    def call(plan: Plan) -> Floats:
        sampler.forget()  # as in deployment, where the conditions change with each call
        return sampler.sample(plan, batch.seeds, batch.conditions)

    def set_up(plan: Plan) -> None:
        sampler.forget()
        calls = sampler.step_call(plan, len(batch.seeds), batch.conditions)
        for index, step in enumerate(plan.steps):
            calls.split_feeds(index, step)

    of_setup: dict[str, Call] = {SETUP + name: partial(set_up, plan) for name, plan in plans.items()}
    return {name: partial(call, plan) for name, plan in plans.items()} | of_setup
