"""Compile a solver and its times into a plan: trace the arithmetic in float64, then make tables of it."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from numbers import Real

from fewstep.plans import guidance as guide
from fewstep.plans.carried_banks import add_banks
from fewstep.plans.default_grid import ANGLES, distilled_grid
from fewstep.plans.errors import NUMERIC, UserError
from fewstep.plans.guidance import Guidance, Pag, Residual, Steer
from fewstep.plans.plan import IMAGE, Plan
from fewstep.plans.schedule import NoiseSchedule, Time, check_times
from fewstep.plans.shaping import Shaping, as_shaping
from fewstep.plans.spec import PURE_NOISE, DenoiserFacts
from fewstep.plans.staircase import staircase
from fewstep.plans.state_rows import build_plan
from fewstep.plans.symbol import Lin
from fewstep.plans.tracer import Solver, Tracer


def compile_plan(
    name: str,
    denoiser: DenoiserFacts,
    guidance: float | Guidance | None = None,
    shaping: Shaping | None = None,
    groups: Sequence[float] = (),
    strength: float | None = None,
    renoise: float | None = None,
) -> Plan:
    """Compile a plan by its name, SOLVER:STEPS or SOLVER:STEPS@GRID (`plan_name.py`), for a denoiser.

    Args:
        guidance: a form of `plans.guidance`, or the weight w of classifier-free guidance; None (or 1) evaluates the
            conditional branch alone.
        shaping: applied to each prediction: `Clip`, `Threshold`, `Rescale`.
        groups: increasing edges of lambda, which give each step its range group (`manifest.Body.groups`).
        strength: in (0, 1]: start from the given "image", noised to where this share of the steps is left. A name
            without a grid is then on `trailing`, where the share of the steps is that of the training's time.
        renoise: in [0, 1]: how much of that noise the image is given (`Tracer.start`); None is 1, all of it.
    """
    from fewstep.plans.names.plan_name import (  # all solvers: not for who only runs plans
        TRAILING,
        parse_plan_name,
        with_grid,
    )
    from fewstep.plans.publication import facts_of

    grids = (denoiser.grid, distilled_grid(denoiser)) if strength is None else (TRAILING, TRAILING)
    parsed = parse_plan_name(name, *grids)
    with _require_finite(
        f"the grid of plan {name!r} has no finite numbers", "choose parameters nearer to the usual ones"
    ):
        times = parsed.grid(NoiseSchedule(denoiser.schedule), parsed.steps)
    if strength is not None:
        times = times[-_steps_left(strength, len(times) - 1) - 1 :]
    text = (
        parsed.text if denoiser.grid == TRAILING else with_grid(parsed.text)
    )  # without its grid the name means another plan
    plan = trace_plan(text, parsed.solver, times, denoiser, guidance, shaping, groups, strength, renoise)
    own_grids = ("", denoiser.grid)  # of a training that may have evaluated sigma_min
    is_elsewhere = denoiser.distilled and name.partition("@")[2].strip() not in own_grids
    if denoiser.prediction == "consistency" or facts_of(parsed.solver).tied or is_elsewhere:
        _check_every_step(plan, NoiseSchedule(denoiser.schedule))
    return plan


def trace_plan(
    name: str,
    solver: Solver,
    times: Sequence[Time],
    denoiser: DenoiserFacts,
    guidance: float | Guidance | None = None,
    shaping: Shaping | None = None,
    groups: Sequence[float] = (),
    strength: float | None = None,
    renoise: float | None = None,
) -> Plan:
    """Compile any solver over any times, from noisy to clean; `compile_plan` is the everyday form.

    With a `strength` the given "image" is noised to the first of the times, whatever its value.
    """
    if len(times) < 2:
        raise UserError(f"plan {name!r} has {len(times)} times", "give two or more, from noisy to clean")
    check_times(times)
    if strength is None:
        times = _prepend_pure_noise(times, denoiser)
    guidance = check_guidance(guidance, denoiser)
    shaping = as_shaping(shaping)
    schedule = NoiseSchedule(denoiser.schedule)
    tracer = Tracer(
        denoiser=denoiser,
        first=times[0],
        schedule=schedule,
        guidance=guide.fill_steer_scale(guidance, denoiser.gradients),
        shaping=shaping,
        from_image=strength is not None,
        renoise=_check_renoise(renoise, strength, denoiser),
    )
    sample = _trace_solver(name, solver, tracer, times)
    if not tracer.evaluations:
        raise UserError(f"the solver of plan {name!r} has no steps", "let it evaluate the denoiser: trace.denoise")
    plan = build_plan(name, tracer, sample, guidance, strength, renoise, groups)
    if strength is not None and IMAGE not in plan.given:
        raise UserError(f"solver of plan {name!r} does not start from an image", "leave strength out")
    plan = add_banks(plan, denoiser.carried, denoiser.schedule, groups)
    return plan if denoiser.stairs is None else staircase(plan, denoiser.stairs, schedule)


def _prepend_pure_noise(times: Sequence[Time], denoiser: DenoiserFacts) -> Sequence[Time]:
    """The times, behind one at pure noise where a network is there for that one alone (One More Step: Hu et al. 2023,
    arXiv 2311.15744) and the schedule ends before. The network is told the time of the first step; the authors' is told
    none. The solver makes the step: theirs is ancestral."""
    first = times[0]
    if first.alpha == 0 or not any(each.until == PURE_NOISE for each in denoiser.networks):
        return times
    return [Time(first.network, 0.0, 1.0), *times]


def _check_every_step(plan: Plan, schedule: NoiseSchedule) -> None:
    """UserError for a step from sigma_min of a consistency function, which returns x itself there: the step would do
    nothing. Other distilled denoisers are taken to be such functions on any grid but their own."""
    end = schedule.cleanest.lam - 1e-9
    for step in plan.steps:
        if step.lam is not None and step.lam >= end and schedule.timesteps is None:
            raise UserError(
                f"the step of plan {plan.name!r} from time {step.time:g} does nothing: the network returns x there",
                f"take a grid that ends before it, such as {plan.name.partition('@')[0]}@{ANGLES}",
            )


def _trace_solver(name: str, solver: Solver, tracer: Tracer, times: Sequence[Time]) -> Lin:
    """The solver's sample; its arithmetic may be undefined at these times."""
    went = f"{times[0].network:g} .. {times[-1].network:g} of schedule {tracer.schedule.name}"
    what = f"the solver of plan {name!r} has no finite numbers over times {went}"
    with _require_finite(what, "choose smaller parameters, times where sigma > 0 and alpha > 0, or another solver"):
        return tracer.add_share(solver(tracer, times), times[-1])


@contextmanager
def _require_finite(what: str, fix: str) -> Iterator[None]:
    """Inside the block, arithmetic without a finite result is a UserError."""
    try:
        yield
    except NUMERIC as error:
        raise UserError(what, fix) from error


def check_guidance(guidance: float | Guidance | None, denoiser: DenoiserFacts) -> Guidance | None:
    """The form of guidance. UserError for a form that needs outputs which the denoiser lacks."""
    form = guide.as_guidance(guidance)
    if guide.needs_null(form) and not denoiser.guided:
        raise UserError(
            f"guidance {guidance} for a denoiser without an unconditional form", "leave guidance out (or give 1)"
        )
    besides = form.guidance if isinstance(form, Steer) else form
    if isinstance(besides, Pag) and not denoiser.perturbed:
        raise UserError(
            f"guidance {guide.to_text(besides)} for a network without perturbed attention",
            "export it with --change pag:middle, or give another guidance",
        )
    if isinstance(form, Steer) and len(denoiser.gradients) != 1:
        raise UserError(
            f"steering by gradients by {' and '.join(sorted(denoiser.gradients))}"
            if denoiser.gradients
            else "steering by a network whose second output is no gradient",
            "export it with fewstep.literature.gradients.gradient.with_gradient: docs/export/gradients.md",
        )
    if isinstance(form, Residual) and denoiser.heads > 1:
        raise UserError("Residual guidance for a denoiser of several outputs", "use another form of guidance")
    if isinstance(form, Residual) and denoiser.towards is not None:
        raise UserError(f"Residual guidance for a denoiser that restores {denoiser.towards!r}", "use another form")
    return form


def _check_renoise(renoise: float | None, strength: float | None, denoiser: DenoiserFacts) -> float:
    if renoise is None:
        return 1.0
    if not (isinstance(renoise, Real) and 0 <= renoise <= 1):
        raise UserError(f"renoise {renoise!r} is not in [0, 1]", "give the share of the noise, such as 0.5")
    if strength is None:
        raise UserError("renoise without a strength", "give a strength too: a plan from noise has no image to noise")
    if denoiser.towards is not None:
        raise UserError(f"renoise for a denoiser that restores {denoiser.towards!r}", "leave renoise out")
    return float(renoise)


def _steps_left(strength: float, steps: int) -> int:
    """The number of steps of an image-to-image run, which are the grid's last ones; at least 1."""
    if not (isinstance(strength, Real) and 0 < strength <= 1):
        raise UserError(f"strength {strength!r} is not in (0, 1]", "give the share of the steps to run, such as 0.6")
    return max(1, round(strength * steps))
