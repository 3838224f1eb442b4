"""The time of a whole call with an int8 body, compared with float32 on this machine.

A call begins with the prompt and ends with the picture. A policy with cameras may spend nearly all of its call in the
conditioner, and a picture of few steps half of it in the text encoder and the decoder. If these stay in float32, int8
saves little.

Other programs delay calls, and those that are longer than a time slice of the system nearly always. So on a busy
machine the times are processor times of both bodies, which use the same number of threads.
"""

import logging
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from functools import cache, partial
from math import exp, log, sqrt
from pathlib import Path
from statistics import mean, median, stdev

from msgspec import structs

from fewstep.graph.files.commit import open_for_update
from fewstep.measure.cost import max_branches
from fewstep.measure.estimate import BUSY, measure_load
from fewstep.measure.rollouts.conditions_file import ConditionRecords
from fewstep.measure.rollouts.quality_range import student_quantile
from fewstep.measure.rollouts.seeds import HELD_OUT_SEEDS, SeedBatch
from fewstep.measure.sampling import FLOAT
from fewstep.measure.speed.contender_process import Seconds
from fewstep.measure.speed.timed_process import TimedProcess
from fewstep.plans.any_plan import check_compiled
from fewstep.plans.errors import UserError
from fewstep.plans.plan import DENOISER, Plan
from fewstep.report.call_time import FASTER, body_files, describe_call, valid_calls
from fewstep.report.choosing.call_shares import share_of_bytes, share_of_macs
from fewstep.report.choosing.companion_times import companion_timer
from fewstep.report.choosing.deployment_times import SETUP, make_sampler_calls, milliseconds_of
from fewstep.report.choosing.engines import REFERENCE, TimedEngine
from fewstep.report.choosing.int8_speedup import cpu_backend
from fewstep.report.choosing.saved_choice import today
from fewstep.runtime.bundle.manifest import CallTime, Manifest
from fewstep.runtime.bundle.networks import networks
from fewstep.runtime.bundle.reading import Bundle, open_bundle
from fewstep.runtime.kinds.sizes import sizes_of
from fewstep.runtime.machine.cpu import this_cpu
from fewstep.runtime.machine.turns import Rounds, take_turns
from fewstep.runtime.sampling.execution import NO_SETTINGS, PlanCompiler

LOG = logging.getLogger("fewstep")
ROUNDS, MOST_ROUNDS = 3, 7
CALL = "call"


@dataclass(frozen=True)
class _TimedBody:
    """A body that is timed, its engine, and the calibrated plan that its calls follow."""

    name: str
    engine: TimedEngine
    plan: Plan


@dataclass(frozen=True)
class _Times:
    """Milliseconds of calls of float32 and of a body in turns, in each round, and the share of a call that conditioner
    and prologue take. load: see `CallTime`; on a busy machine these are processor times."""

    rounds: Rounds[float]
    setup: float
    load: float


def time_calls(
    path: Path,
    bodies: Iterable[str],
    threads: int,
    conditions: Callable[[Bundle], ConditionRecords | None] = lambda bundle: None,
) -> Iterator[str]:
    """Time a whole call of each body in turns with float32, store the times in the bundle, and yield a line for each
    body. A body that this machine cannot run, and tokens, are named and not timed.

    conditions: returns records of the conditions of a bundle, or None to draw them.
    """
    bundle = open_bundle(path)
    timed, lines = _measure_calls(bundle, bodies, threads, conditions)
    if timed:
        with open_for_update(path, must_exist=True, verb="calibrate") as writer:
            assert writer.opened is not None, "the bundle exists"
            writer.commit(with_calls(writer.opened.manifest, timed))
    yield from lines
    yield from (describe_call(call, bundle.body(call.body)) for call in timed)
    if any(call.load >= BUSY for call in timed):
        yield "`fewstep report` times calls again that were timed while other programs ran"


def time_outdated_calls(
    bundle: Bundle, bodies: Iterable[str], threads: int, conditions: Callable[[Bundle], ConditionRecords | None]
) -> tuple[CallTime, ...]:
    """Time the calls of bodies that were timed on another day or processor, with another number of threads, while other
    programs ran, or not at all. Bodies that cannot be timed are left out. The arguments are those of `time_calls`;
    nothing is stored."""
    current = {call.body for call in valid_calls(bundle.manifest) if _is_current(call, threads)}
    return tuple(_measure_calls(bundle, [name for name in bodies if name not in current], threads, conditions)[0])


def _is_current(call: CallTime, threads: int) -> bool:
    is_here = call.processor == this_cpu().name and call.threads == threads
    return is_here and call.day == today() and call.load < BUSY


def with_calls(manifest: Manifest, timed: Sequence[CallTime]) -> Manifest:
    """Return a manifest with these times in place of those of the same bodies, and without those of replaced bodies."""
    names = {call.body for call in timed}
    others = (call for call in valid_calls(manifest) if call.body not in names)
    return structs.replace(manifest, calls=(*others, *timed))


def _measure_calls(
    bundle: Bundle, bodies: Iterable[str], threads: int, conditions: Callable[[Bundle], ConditionRecords | None]
) -> tuple[list[CallTime], list[str]]:
    """Return the times of calls, and a line for each body that is not timed."""
    timed, lines = list[CallTime](), list[str]()
    draw_once = cache(lambda: SeedBatch.from_manifest(bundle.manifest, HELD_OUT_SEEDS[:1], conditions(bundle)))
    timers = {is_busy: companion_timer(bundle, threads, is_busy) for is_busy in (False, True)}
    for body_or_line in _select_bodies(bundle, bodies, threads):
        if isinstance(body_or_line, str):
            lines.append(body_or_line)
            continue
        try:
            times = _time_body(bundle, body_or_line, draw_once())
            time_once = timers[times.load >= BUSY]
            companions = time_once(FLOAT), time_once(body_or_line.name)
            timed.append(_describe(bundle, body_or_line, draw_once(), times, companions))
        except UserError as error:
            LOG.info("a call of %s is not timed: %s", body_or_line.name, error)
            lines.append(f"{body_or_line.name}: not timed here, {error.what}")
    return timed, lines


def _select_bodies(bundle: Bundle, names: Iterable[str], threads: int) -> Iterator["_TimedBody | str"]:
    """Yield each body with its engine and its plan, or a line on a body that is not timed. Nothing is loaded."""
    for name in names:
        try:
            bundle.check_continuous("time a call of")
            body = bundle.body(name)
            if not (backend := cpu_backend(body.target)):
                raise UserError(f"since {body.target} does not run on CPUs", "measure it on its device")
            groups = {other: bundle.select_network(other).body(name).groups for other in networks(bundle.manifest)}
            compiler = PlanCompiler(
                bundle, body, {other: edges for other, edges in groups.items() if other != DENOISER}
            )
            plan = check_compiled(compiler.compile_as_calibrated(None, None, NO_SETTINGS))
            yield _TimedBody(name, TimedEngine(backend, threads, None), plan)
        except UserError as error:
            LOG.info("a call of %s is not timed: %s", name, error)
            yield f"{name}: not timed here, {error.what}"


def _time_body(bundle: Bundle, timed: _TimedBody, sample: SeedBatch) -> _Times:
    """Time a call for one sample. A large network is timed after float32 instead of in turns, so that memory holds one.
    Raises UserError if a body does not run here."""
    name, plan = timed.name, timed.plan
    exact_engine, is_large = TimedEngine(REFERENCE, timed.engine.threads, None), bool(bundle.body(name).graph.data)
    exact, own = (
        partial(_open_call, bundle, body, engine, plan, sample, is_large)
        for body, engine in ((FLOAT, exact_engine), (name, timed.engine))
    )
    before = measure_load(timed.engine.threads)
    turns: Rounds[list[Seconds]]

    def is_done(done: Rounds[list[Seconds]]) -> bool:
        return are_decided([_milliseconds(turn, before) for turn in done])

    if is_large:
        with exact() as process:
            float32 = process.run_turn(call=CALL)
        with own() as process:
            turns, setup = [(float32, process.run_turn(call=CALL))], process.run_turn(call=SETUP + CALL)
    else:
        with ExitStack() as stack:
            opened = [stack.enter_context(open_call()) for open_call in (exact, own)]
            turns = take_turns([partial(process.run_turn, call=CALL) for process in opened], is_done)
            setup = opened[1].run_turn(call=SETUP + CALL)
    load = max(before, measure_load(timed.engine.threads))
    own_calls = [seconds for _, calls in turns for seconds in calls]
    share = milliseconds_of(setup, load >= BUSY) / milliseconds_of(own_calls, load >= BUSY)
    return _Times([_milliseconds(turn, load) for turn in turns], share, load)


def _milliseconds(turn: Sequence[Sequence[Seconds]], load: float) -> tuple[float, float]:
    """Return the milliseconds of a call of float32 and of a body, from the times of their calls in one round."""
    float32, own = turn
    return milliseconds_of(float32, load >= BUSY), milliseconds_of(own, load >= BUSY)


def are_decided(rounds: Rounds[float]) -> bool:
    """Return whether rounds (float32, body) decide if the body is FASTER than float32: if there are at least ROUNDS,
    and all of them and the 95 % interval of the mean speed agree. MOST_ROUNDS always decide."""
    if len(rounds) < ROUNDS:
        return False
    speeds = [log(exact / own) for exact, own in rounds]
    width = student_quantile(len(speeds) - 1) * stdev(speeds) / sqrt(len(speeds))
    ends = min(mean(speeds) - width, *speeds), max(mean(speeds) + width, *speeds)
    return not exp(ends[0]) < FASTER <= exp(ends[1]) or len(rounds) >= MOST_ROUNDS


def _describe(
    bundle: Bundle,
    timed: _TimedBody,
    sample: SeedBatch,
    times: _Times,
    companions: tuple[float | None, float | None],
) -> CallTime:
    """Return the time of a call with the companions, whose milliseconds are those of float32 and of the body."""
    (of_float, further), body = (companion or 0.0 for companion in companions), bundle.body(timed.name)
    exact, own = (median(pair[place] for pair in times.rounds) for place in (0, 1))
    speeds = [(float32 + of_float) / (call + further) for float32, call in times.rounds]
    float32, milliseconds = exact + of_float, (exact + of_float) / median(speeds)
    return CallTime(
        body=timed.name,
        graphs=body_files(body),
        plan=timed.plan.name,
        float32=float32,
        milliseconds=milliseconds,
        slowest=min(speeds),
        fastest=max(speeds),
        setup=min(1.0, times.setup) * own / (own + further),
        processor=this_cpu().name,
        threads=timed.engine.threads,
        share_of_macs=share_of_macs(bundle, timed.name, timed.plan),
        share_of_bytes=share_of_bytes(bundle, timed.name, timed.plan),
        companions=companions[1],
        day=today(),
        sizes=sizes_of(sample.x_shape, bundle.manifest) or {},
        load=times.load,
    )


def _open_call(
    bundle: Bundle, body: str, engine: TimedEngine, plan: Plan, sample: SeedBatch, is_lean: bool
) -> TimedProcess:
    """Start a body in a separate process, with a call along the plan for one sample.

    is_lean: whether the engine holds the weights once.
    """
    given = (bundle, body, engine, max_branches(plan), {CALL: plan}, sample, is_lean)
    return TimedProcess(body, partial(make_sampler_calls, *given))
