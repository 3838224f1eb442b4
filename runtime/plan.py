"""A plan: a sampler compiled, ahead of time and in float64, into a table of numbers that one executor runs.

The state S has `rows` rows, each the size of a sample. It starts as S = start . [given; draws], and step i does

    u  = input . S                            what the network sees
    o  = network(u, time, branch)             one output per branch and head
    p  = shape(shape_of . [S; o])             only where the step has a shape: clip, threshold, rescale
    S' = update . [S; o; p; draws]            guidance weights and the prediction's meaning are folded in

and the sample is output . S after the last step. Where a coefficient differs over a sample it is a tensor (`terms`).
Nothing depends on the data, so one plan serves any number of threads. `plan_file.py` writes and reads plans.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from numbers import Real
from typing import TYPE_CHECKING

import msgspec

from fewstep.runtime import guidance as guide
from fewstep.runtime import shape as shapes
from fewstep.runtime.errors import UserError
from fewstep.runtime.guidance import Guidance, LinearAg
from fewstep.runtime.lin import Lin
from fewstep.runtime.manifest import Prediction, ScheduleSpec, Strict
from fewstep.runtime.rows import Row, Tensor, Term, tabulate
from fewstep.runtime.schedule import NoiseSchedule, Time, check_times
from fewstep.runtime.shape import Shape
from fewstep.runtime.trace import IMAGE, Evaluation, Tracer

if TYPE_CHECKING:
    from fewstep.runtime.plan_name import Solver

SCHEMA = 2
DENOISER = "denoiser"  # the network of a step, unless a plan has several


class Step(Strict, frozen=True):
    """One evaluation and the update after it. `lam` is log(alpha / sigma) there, None for -infinity (pure noise).

    Columns of `shape_of`: rows of the state, then the outputs, head by head within branch by branch. Of `x0`, the
    predicted sample: those, then what the shape makes if there is one. Of `update`, one line for each row of the next
    state: those, then `draws`.
    """

    network: str
    time: float
    to: float | None  # the second time that some networks are told
    lam: float | None
    alpha: float | None  # of x at this time; None in plans of an older schema
    sigma: float | None
    group: int
    branches: tuple[str, ...]
    heads: int
    input: Row
    shape: Shape | None
    shape_of: tuple[Row, ...]
    x0: Row
    update: tuple[Row, ...]
    terms: tuple[Term, ...]
    draws: tuple[int, ...]


class Plan(Strict, frozen=True):
    """A compiled sampler. `schedule` is the fingerprint of the noise schedule it was compiled for.

    given: names of the tensors [B, *x_shape] that the caller brings.
    strength: the share of the steps that is run from a given image; None starts from noise.
    """

    schema: int
    name: str
    schedule: str
    prediction: Prediction
    guidance: Guidance | None
    strength: float | None
    rows: int
    given: tuple[str, ...]
    start: tuple[Row, ...]
    start_terms: tuple[Term, ...]
    start_draws: tuple[int, ...]
    steps: tuple[Step, ...]
    output: Row
    tensors: tuple[Tensor, ...]


@dataclass(frozen=True)
class Denoising:
    """What a plan has to know of a denoiser: its schedule, what it predicts, whether it has an unconditional branch,
    how many outputs it gives (the first is the prediction; a learned variance would be a second), and for restoration
    the name of the given tensor that noising reverts to (`Tracer.start`)."""

    schedule: ScheduleSpec
    prediction: Prediction
    guided: bool = True
    heads: int = 1
    towards: str | None = None


def compile_plan(
    name: str,
    denoiser: Denoising,
    guidance: float | Guidance | None = None,
    shape: Shape | None = None,
    groups: Sequence[float] = (),
    strength: float | None = None,
) -> Plan:
    """Compile a plan by its name, SOLVER:STEPS or SOLVER:STEPS@GRID (`plan_name.py`), for a denoiser.

    Args:
        guidance: a form of `runtime.guidance`, or the weight w of classifier-free guidance; None (or 1) evaluates the
            conditional branch alone.
        shape: what is done to each prediction: `Clip`, `Threshold`, `Rescale`.
        groups: increasing edges of lambda; gives each step the range group it falls in (`manifest.Body.groups`).
        strength: in (0, 1]: start from the given "image", noised to where this share of the steps is left.
    """
    from fewstep.runtime.plan_name import parse_plan_name  # all solvers and grids: not for who only runs plans

    parsed = parse_plan_name(name)
    times = parsed.grid(NoiseSchedule(denoiser.schedule), parsed.steps)
    if strength is not None:
        times = times[-_steps_left(strength, len(times) - 1) - 1 :]
    return trace_plan(parsed.text, parsed.solver, times, denoiser, guidance, shape, groups, strength)


def trace_plan(
    name: str,
    solver: Solver,
    times: Sequence[Time],
    denoiser: Denoising,
    guidance: float | Guidance | None = None,
    shape: Shape | None = None,
    groups: Sequence[float] = (),
    strength: float | None = None,
) -> Plan:
    """Compile any solver over any times, from noisy to clean; `compile_plan` is the everyday form.

    With a `strength` the given "image" is noised to the first of the times, whatever its value.
    """
    if len(times) < 2:
        raise UserError(f"plan {name!r} has {len(times)} times", "give two or more, from noisy to clean")
    check_times(times)
    guidance = _check_guidance(guidance, denoiser)
    shape = shapes.as_shape(shape)
    schedule = NoiseSchedule(denoiser.schedule)
    tracer = Tracer(
        prediction=denoiser.prediction,
        first=times[0],
        schedule=schedule,
        guidance=guidance,
        shape=shape,
        heads=denoiser.heads,
        from_image=strength is not None,
        towards=denoiser.towards,
    )
    tables = tabulate(tracer, _traced(name, solver, tracer, times))
    if strength is not None and IMAGE not in tables.given:
        raise UserError(f"solver of plan {name!r} does not start from an image", "leave strength out")
    steps = tuple(
        Step(
            network=DENOISER,
            time=evaluation.time.network,
            to=None if evaluation.to is None else _told(evaluation.to, schedule),
            lam=None if math.isinf(evaluation.time.lam) else evaluation.time.lam,
            alpha=evaluation.time.alpha,
            sigma=evaluation.time.sigma,
            group=group_of(evaluation.time.lam, groups),
            branches=evaluation.branches,
            heads=denoiser.heads,
            input=table.input,
            shape=_shape_of(shape, evaluation),
            shape_of=table.shape_of,
            x0=table.x0,
            update=table.update.rows,
            terms=table.update.terms,
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
        strength=strength,
        rows=tables.rows,
        given=tables.given,
        start=tables.start.rows,
        start_terms=tables.start.terms,
        start_draws=tables.start_draws,
        steps=steps,
        output=tables.output,
        tensors=tables.tensors,
    )


def _told(to: Time, schedule: NoiseSchedule) -> float:
    """The second time as the network knows it: the clean end is the cleanest time, sigma_min where that is not 0."""
    return to.network if to.sigma > 0 else schedule.cleanest.network


def _traced(name: str, solver: Solver, tracer: Tracer, times: Sequence[Time]) -> Lin:
    """The solver's sample; its arithmetic may be undefined at these times."""
    try:
        return tracer.restored(solver(tracer, times), times[-1])
    except (ZeroDivisionError, OverflowError) as error:
        went = f"{times[0].network:g} .. {times[-1].network:g} of schedule {tracer.schedule.name}"
        raise UserError(
            f"the solver of plan {name!r} has no finite numbers over times {went}",
            "choose smaller parameters, times where sigma > 0 and alpha > 0, or another solver",
        ) from error


def _check_guidance(guidance: float | Guidance | None, denoiser: Denoising) -> Guidance | None:
    form = guide.as_guidance(guidance)
    if guide.needs_null(form) and not denoiser.guided:
        raise UserError(
            f"guidance {guidance} for a denoiser without an unconditional form", "leave guidance out (or give 1)"
        )
    if isinstance(form, LinearAg) and denoiser.heads > 1:
        raise UserError("LinearAg guidance for a denoiser of several outputs", "use another form of guidance")
    return form


def _shape_of(shape: Shape | None, evaluation: Evaluation) -> Shape | None:
    return None if evaluation.shaped is None else shape


def _steps_left(strength: float, steps: int) -> int:
    """Steps of a grid that an image-to-image run takes: its last ones, at least one."""
    if not (isinstance(strength, Real) and 0 < strength <= 1):
        raise UserError(f"strength {strength!r} is not in (0, 1]", "give the share of the steps to run, such as 0.6")
    return max(1, round(strength * steps))


def group_of(lam: float | None, groups: Sequence[float]) -> int:
    """Index of the lambda interval; None is -infinity."""
    return 0 if lam is None else sum(lam >= edge for edge in groups)


def regroup(plan: Plan, groups: Sequence[float]) -> Plan:
    """The same plan with its steps assigned to other lambda groups."""
    steps = tuple(msgspec.structs.replace(step, group=group_of(step.lam, groups)) for step in plan.steps)
    return msgspec.structs.replace(plan, steps=steps)
