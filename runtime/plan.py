"""A plan: a sampler compiled, ahead of time and in float64, into a table of numbers that one executor runs.

The state S has `rows` rows, each the size of a sample. It starts as S = start . draws, and step i does

    u  = input . S                            what the network sees
    o  = network(u, time, branch)             one output per branch
    p  = clip(x0 . [S; o])                    only where the step has a clip
    S' = update . [S; o; p; draws]            guidance weights and the prediction's meaning are folded in

and the sample is output . S after the last step. Nothing depends on the data, so one plan serves any number of threads.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import msgspec

from fewstep.runtime import solvers
from fewstep.runtime.errors import UserError
from fewstep.runtime.lin import Lin
from fewstep.runtime.manifest import Prediction, ScheduleSpec, Strict
from fewstep.runtime.noise import DRAWS_LIMIT
from fewstep.runtime.rows import Row, tabulate
from fewstep.runtime.schedule import NoiseSchedule, Time, check_times, time_grid
from fewstep.runtime.trace import Tracer, guidance_branches

SCHEMA = 1
DIGITS = 9  # of a number of steps: far more than any plan has

Solver = Callable[[Tracer, Sequence[Time]], Lin]


class Clip(Strict, frozen=True):
    """Clip the predicted x0 to [low, high], elementwise."""

    low: float
    high: float


class Step(Strict, frozen=True):
    """One evaluation and the update after it. `lam` is log(alpha / sigma) there, None for -infinity (pure noise)."""

    network: str
    time: float
    lam: float | None
    group: int
    branches: tuple[str, ...]
    input: Row
    x0: Row
    clip: Clip | None
    update: tuple[Row, ...]
    draws: tuple[int, ...]


class Plan(Strict, frozen=True):
    """A compiled sampler. `schedule` is the fingerprint of the noise schedule it was compiled for."""

    schema: int
    name: str
    schedule: str
    prediction: Prediction
    guidance: float | None
    rows: int
    start: tuple[Row, ...]
    start_draws: tuple[int, ...]
    steps: tuple[Step, ...]
    output: Row


@dataclass(frozen=True)
class Denoising:
    """What a plan has to know of a denoiser: its schedule, what it predicts, whether it has an unconditional branch."""

    schedule: ScheduleSpec
    prediction: Prediction
    guided: bool = True


def compile_plan(
    name: str,
    denoiser: Denoising,
    guidance: float | None = None,
    clip: tuple[float, float] | None = None,
    groups: Sequence[float] = (),
) -> Plan:
    """Compile "SOLVER:STEPS", e.g. "dpmpp_2m:8", for a denoiser.

    Args:
        guidance: weight w of classifier-free guidance; None (or 1) evaluates the conditional branch alone.
        clip: bounds for the predicted x0.
        groups: increasing edges of lambda; gives each step the range group it falls in (`manifest.Body.groups`).
    """
    solver, steps = parse_name(name)
    schedule = NoiseSchedule(denoiser.schedule)
    return trace_plan(name, solver, time_grid(schedule, steps), denoiser, guidance, clip, groups)


def trace_plan(
    name: str,
    solver: Solver,
    times: Sequence[Time],
    denoiser: Denoising,
    guidance: float | None = None,
    clip: tuple[float, float] | None = None,
    groups: Sequence[float] = (),
) -> Plan:
    """Compile any solver over any times, from noisy to clean; `compile_plan` is the everyday form."""
    check_times(times)
    branches = guidance_branches(guidance)
    if "uncond" in branches and not denoiser.guided:
        raise UserError(
            f"guidance {guidance:g} for a denoiser without an unconditional form", "leave guidance out (or give 1)"
        )
    schedule = NoiseSchedule(denoiser.schedule)
    tracer = Tracer(denoiser.prediction, branches, times[0], schedule, clipped=clip is not None)
    tables = tabulate(tracer, solver(tracer, times))
    bounds = None if clip is None else Clip(*clip)
    steps = tuple(
        Step(
            network="denoiser",
            time=evaluation.time.network,
            lam=None if math.isinf(evaluation.time.lam) else evaluation.time.lam,
            group=group_of(evaluation.time.lam, groups),
            branches=tuple(branches),
            input=table.input,
            x0=table.x0,
            clip=bounds,
            update=table.update,
            draws=table.draws,
        )
        for evaluation, table in zip(tracer.evaluations, tables.steps, strict=True)
    )
    return Plan(
        schema=SCHEMA,
        name=name,
        schedule=schedule.fingerprint,
        prediction=denoiser.prediction,
        guidance=guidance,
        rows=tables.rows,
        start=tables.start,
        start_draws=tables.start_draws,
        steps=steps,
        output=tables.output,
    )


def parse_name(name: str) -> tuple[Solver, int]:
    """ "dpmpp_2m:8" -> (solver, 8)."""
    solver_name, _, count = name.partition(":")
    if solver_name not in solvers.__all__:
        raise UserError(
            f"unknown solver '{solver_name}' in plan '{name}'", f"choose one of {', '.join(solvers.__all__)}"
        )
    if not count.isdecimal() or len(count) > DIGITS:
        raise UserError(
            f"plan '{name}' does not say how many steps, as a positive whole number", f"write it as {solver_name}:8"
        )
    solver: Solver = getattr(solvers, solver_name)
    return solver, int(count)


def group_of(lam: float | None, groups: Sequence[float]) -> int:
    """Index of the lambda interval; None is -infinity."""
    return 0 if lam is None else sum(lam >= edge for edge in groups)


def regroup(plan: Plan, groups: Sequence[float]) -> Plan:
    """The same plan with its steps assigned to other lambda groups."""
    steps = tuple(msgspec.structs.replace(step, group=group_of(step.lam, groups)) for step in plan.steps)
    return msgspec.structs.replace(plan, steps=steps)


def encode(plan: Plan) -> bytes:
    """JSON; floats keep all their digits, so that decoding gives the same plan back."""
    return msgspec.json.encode(plan)


def decode(data: bytes, source: str = "plan") -> Plan:
    """A plan from JSON, checked: schema, shapes of every row, finite numbers. `source` names it in errors."""
    fix = "compile it again (a plan NAME:STEPS needs no file)"
    try:
        plan = msgspec.json.decode(data, type=Plan)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise UserError(f"{source} is no plan: {error}", fix) from None
    if plan.schema != SCHEMA:
        raise UserError(f"{source} has plan schema {plan.schema}, this version reads {SCHEMA}", "update fewstep")
    problem = _problem(plan)
    if problem:
        raise UserError(f"{source} is damaged: {problem}", fix)
    return plan


def _problem(plan: Plan) -> str | None:
    """What is wrong with a plan's tables, or None."""
    K = plan.rows
    if not plan.steps:
        return "it has no steps"
    if K < 1 or not plan.start_draws:
        return "it has no state, or nothing to start it from"
    for draw in (*plan.start_draws, *(draw for step in plan.steps for draw in step.draws)):
        if not 0 <= draw < DRAWS_LIMIT:
            return f"there is no draw {draw}"
    shapes = [("start", plan.start, K, len(plan.start_draws)), ("output", (plan.output,), 1, K)]
    for i, step in enumerate(plan.steps):
        seen = K + len(step.branches)
        if not step.branches:
            return f"step {i} evaluates no branch"
        if step.group < 0:
            return f"step {i} has group {step.group}"
        shapes += [
            (f"steps[{i}].input", (step.input,), 1, K),
            (f"steps[{i}].x0", (step.x0,), 1, seen),
            (f"steps[{i}].update", step.update, K, seen + (step.clip is not None) + len(step.draws)),
        ]
        if step.clip is not None and not step.clip.low < step.clip.high:
            return f"step {i} clips to [{step.clip.low}, {step.clip.high}]"
    for name, table, height, width in shapes:
        if len(table) != height or any(len(row) != width for row in table):
            return f"{name} is not {height} x {width}"
        if not all(math.isfinite(number) for row in table for number in row):
            return f"{name} holds a number that is not finite"
    return None
