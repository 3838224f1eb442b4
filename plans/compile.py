"""Compile a solver and its times into a plan: trace the arithmetic in float64, then convert it to tables."""

import math
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np

from fewstep.plans import guidance as guide
from fewstep.plans.continuation.carried_banks import add_banks
from fewstep.plans.continuation.carry_check import check_carry
from fewstep.plans.continuation.staircase import staircase
from fewstep.plans.default_grid import ANGLES, find_trained_grid
from fewstep.plans.errors import NUMERIC, UserError
from fewstep.plans.guidance import Guidance, Pag, Residual, Steer
from fewstep.plans.names.plan_reference import NameParts, join_plan_name, split_plan_name
from fewstep.plans.plan import IMAGE, Plan
from fewstep.plans.schedule import NoiseSchedule, Time, check_times
from fewstep.plans.shaping import Shaping, as_shaping
from fewstep.plans.spec import PURE_NOISE, DenoiserFacts
from fewstep.plans.state_rows import build_plan
from fewstep.plans.strength import Strength, is_share, say_start, share_of, times_of
from fewstep.plans.symbol import Lin
from fewstep.plans.tracer import Solver, Tracer

if TYPE_CHECKING:
    from fewstep.plans.names.plan_name import PlanName  # loads all solvers, which running a plan does not need


def bind_plan_name(name: str | NameParts, denoiser: DenoiserFacts, strength: Strength | None = None) -> "PlanName":
    """Parse the name of a plan for a denoiser. A name without a grid gets the denoiser's default grid.

    `text` of the result is the name of the compiled plan. Raises UserError for an invalid name.
    """
    from fewstep.plans.names.plan_name import TRAILING, parse_plan_name, with_grid

    grids = (denoiser.grid, find_trained_grid(denoiser)) if strength is None else (TRAILING, TRAILING)
    parsed = parse_plan_name(name, *grids, is_flow=denoiser.schedule.kind == "flow")
    # without its grid the name means another plan, unless the default is `trailing`
    return parsed if denoiser.grid == TRAILING else replace(parsed, text=with_grid(parsed.text))


def compile_plan(
    name: "str | NameParts | PlanName",
    denoiser: DenoiserFacts,
    guidance: float | Guidance | None = None,
    shaping: Shaping | None = None,
    groups: Sequence[float] = (),
    strength: Strength | None = None,
    renoise: float | None = None,
) -> Plan:
    """Compile a plan by its name, SOLVER:STEPS or SOLVER:STEPS@GRID (`plan_name.py`), for a denoiser.

    Args:
        name: as text, split into its parts, or the result of `bind_plan_name` for this denoiser and strength.
        guidance: a form of `plans.guidance`, or the weight w of classifier-free guidance. With None or 1, only the
            conditional branch is evaluated.
        shaping: applied to each prediction: `Clip`, `Threshold`, `Rescale`.
        groups: increasing edges of lambda, which give each step its range group (`manifest.Body.groups`).
        strength: in (0, 1]: start from the given "image", noised to the time at which this fraction of the steps
            remains, rounded to one step or more; a warning names a start that rounding moves. A name without a grid
            then uses `trailing`, where it is also the fraction of the time range. `AllSteps` runs all steps from there.
        renoise: in [0, 1]: the fraction of that noise that is added to the image (`Tracer.start`); None is 1.

    Raises UserError for an invalid name or argument, and for a combination that the denoiser does not support.
    """
    from fewstep.plans.publication import facts_of

    parsed = bind_plan_name(name, denoiser, strength) if isinstance(name, str | NameParts) else name
    schedule = NoiseSchedule(denoiser.schedule)
    times = times_of(strength, lambda steps: _compute_times(replace(parsed, steps=steps), schedule), parsed)
    settings = guidance, shaping, groups, share_of(strength), renoise
    plan = trace_plan(parsed.text, parsed.solver, times, denoiser, *settings)
    say_start(plan, strength, parsed.steps)
    own_grids = ("", denoiser.grid)  # a network that was trained on these times may have been evaluated at sigma_min
    is_elsewhere = denoiser.distilled and (parsed.reference.grid or "") not in own_grids
    if parsed.light is not None:
        if denoiser.features is None:
            what = f"plan {parsed.text!r} has light steps, but this denoiser has no light network"
            raise UserError(what, "export it with --cache, or leave out what follows the plus sign")
        plan = check_carry(parsed.light(plan, denoiser.features))
    if denoiser.prediction == "consistency" or facts_of(parsed.solver).tied or is_elsewhere:
        _check_every_step(plan, NoiseSchedule(denoiser.schedule))
    return plan


def _compute_times(parsed: "PlanName", schedule: NoiseSchedule) -> Sequence[Time]:
    """Return the times of a plan's grid. Raises UserError if their number is wrong, which only user-supplied grids can
    cause, and for times outside the schedule."""
    with _require_finite(
        f"the grid of plan {parsed.reference.text!r} has times that are not finite",
        "choose parameters nearer to the usual ones",
    ):
        times = parsed.grid(schedule, parsed.steps)
    if len(times) != parsed.steps + 1:
        what = f"the grid of plan {parsed.text!r} returned {len(times)} times for {parsed.steps} steps"
        raise UserError(what, f"return {parsed.steps + 1}, from noisy to clean")
    path = schedule.path
    with np.errstate(all="ignore"):
        limits = schedule.network_time(np.array([math.inf, -math.inf]))  # infinite if the time grows with sigma
    low, high = min(path.first, limits[0]), max(path.last, limits[1])
    for time in times:
        if time.sigma and (time.network < low or time.network > high):  # no network is evaluated where sigma is 0
            what = f"the grid of plan {parsed.text!r} returned the network time {time.network:g}"
            raise UserError(
                f"{what}, outside {low:g} .. {high:g} of schedule {schedule.name}", "return times of the schedule"
            )
    return times


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
    """Compile any solver over any times, from noisy to clean. `compile_plan` does this by name.

    With any `strength` the given "image" is noised to the first of the times.
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
    if not plan.start_draws and not plan.given:
        if denoiser.schedule.kind == "bridge":
            raise UserError("a bridge starts from a given tensor, and the spec names none", "set towards in the Spec")
        raise UserError(f"the solver of plan {name!r} does not use its noise", "let it begin with trace.start()")
    if strength is not None and IMAGE not in plan.given:
        raise UserError(f"the solver of plan {name!r} does not start from an image", "leave strength out")
    plan = add_banks(plan, denoiser.carried, denoiser.schedule, groups)
    return plan if denoiser.stairs is None else staircase(plan, denoiser.stairs, schedule)


def _prepend_pure_noise(times: Sequence[Time], denoiser: DenoiserFacts) -> Sequence[Time]:
    """Prepend a time at pure noise if the denoiser has a network for that step only, and the schedule does not reach it
    (One More Step: Hu et al. 2023, arXiv 2311.15744).

    The network receives the time of the first step, while the authors' network receives none. Here the plan's solver
    takes the step, while theirs is ancestral."""
    first = times[0]
    if first.alpha == 0 or not any(network.until == PURE_NOISE for network in denoiser.networks):
        return times
    return [Time(first.network, 0.0, 1.0), *times]


def _check_every_step(plan: Plan, schedule: NoiseSchedule) -> None:
    """Raise UserError if a step of a consistency function starts at sigma_min. The function returns x itself there, so
    the step would have no effect. Other distilled denoisers are treated as such functions on any grid except their
    own."""
    end, parts = schedule.cleanest.lam - 1e-9, split_plan_name(plan.name)
    for step in plan.steps:
        if step.lam is not None and step.lam >= end and schedule.timesteps is None:
            raise UserError(
                f"the step of plan {plan.name!r} from time {step.time:g} does nothing: the network returns x there",
                f"use a grid that ends before it, such as {join_plan_name(parts.solver, parts.steps, ANGLES)}",
            )


def _trace_solver(name: str, solver: Solver, tracer: Tracer, times: Sequence[Time]) -> Lin:
    """Run the solver on the tracer and return its sample. Raises UserError if its arithmetic is undefined at
    these times."""
    span = f"{times[0].network:g} .. {times[-1].network:g} of schedule {tracer.schedule.name}"
    what = f"the solver of plan {name!r} has coefficients that are not finite for times {span}"
    with _require_finite(what, "choose smaller parameters, times where sigma > 0 and alpha > 0, or another solver"):
        return tracer.add_share(solver(tracer, times), times[-1])


@contextmanager
def _require_finite(what: str, fix: str) -> Iterator[None]:
    """Convert arithmetic errors inside the block to a UserError."""
    try:
        yield
    except NUMERIC as error:
        raise UserError(what, fix) from error


def _describe_export(names: Sequence[str]) -> str:
    """Return, as text, the export options that make a denoiser guidable: they give the conditions `names` a value in
    the unconditional branch. A distilled denoiser takes the weight as one of them instead: as `guidance` if it is a
    pipeline's, and by any name otherwise."""
    if not names:
        return ""
    if "guidance" in names:
        return ", and give the weight as the condition: -c guidance=VALUE"
    distilled = ", and give the weight as the condition: -c weight=VALUE, if it is of guidance" * ("weight" in names)
    options = " ".join(f"--null {name}=VALUE" for name in names)
    shared = "(or with shared=True in the condition, if it is equal in all branches)"
    prompts = "for encoded prompts, --null NAME=@FILE of the empty one, or `fewstep encode --negative TEXT`"
    return f"{distilled}, or export with {options} {shared}; {prompts}"


def check_guidance(guidance: float | Guidance | None, denoiser: DenoiserFacts) -> Guidance | None:
    """Convert guidance to a `Guidance` value, or None for none. Raises UserError if it needs outputs that the denoiser
    lacks, such as an unconditional branch."""
    form = guide.as_guidance(guidance)
    if guide.needs_null(form) and not denoiser.guided:
        raise UserError(
            f"guidance {guidance} needs an unconditional branch, which this denoiser lacks",
            "leave guidance out (or give 1)" + _describe_export(denoiser.without_null),
        )
    besides = form.guidance if isinstance(form, Steer) else form
    if isinstance(besides, Pag) and not denoiser.perturbed:
        raise UserError(
            f"guidance {guide.to_text(besides)} needs perturbed attention, which this network lacks",
            "export it with --change pag:middle, or give another guidance",
        )
    if isinstance(form, Steer) and len(denoiser.gradients) != 1:
        raise UserError(
            f"steering needs gradients with respect to one variable, not {' and '.join(sorted(denoiser.gradients))}"
            if denoiser.gradients
            else "steering needs a network whose second output is a gradient",
            "export it with fewstep.literature.gradients.gradient.with_gradient: docs/export/changes.md",
        )
    if isinstance(form, Residual) and denoiser.heads > 1:
        raise UserError(
            "Residual guidance does not support a denoiser with several outputs", "use another form of guidance"
        )
    if isinstance(form, Residual) and denoiser.towards is not None:
        raise UserError(
            f"Residual guidance does not support a denoiser that restores {denoiser.towards!r}", "use another guidance"
        )
    return form


def _check_renoise(renoise: float | None, strength: float | None, denoiser: DenoiserFacts) -> float:
    if renoise is None:
        return 1.0
    if not is_share(renoise):
        raise UserError(f"renoise {renoise!r} is not in [0, 1]", "give the share of the noise, such as 0.5")
    if strength is None:
        raise UserError("renoise needs a strength", "give one too: a plan from noise has no image to noise")
    if denoiser.towards is not None:
        raise UserError(f"a denoiser that restores {denoiser.towards!r} cannot use renoise", "leave renoise out")
    return float(renoise)
