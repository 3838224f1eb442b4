"""Plans from a scheduler_config.json of diffusers (by the rules of version 0.42), without diffusers and torch.

    plan = plan_from_scheduler_config("model/scheduler", steps=20)

The plans give the same samples as its schedulers, including their errors. docs/samplers.md describes some of them.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from itertools import pairwise
from math import ceil
from numbers import Integral, Real
from pathlib import Path
from typing import Any

import msgspec

from fewstep.plans.compile import trace_plan
from fewstep.plans.configs import cogvideox, continuous, diffusion, dpm, flows, k_diffusion
from fewstep.plans.configs.classes import CLASSES, OTHER_SIGMAS, open_config
from fewstep.plans.configs.config import SchedulerConfig, read_config
from fewstep.plans.configs.own_noise import OWN_NOISE, start_with_own_noise
from fewstep.plans.configs.pipelines import (
    FLOW,
    PIPELINE,
    PIPELINES,
    TAKE_SIGMAS,
    UNHELD_START,
    PipelineRules,
    dynamic_mu,
    token_count,
)
from fewstep.plans.configs.recipe import (
    MOST,
    Recipe,
    ScheduleRequest,
    SchedulerRecipe,
    check_choices,
    check_numbers,
)
from fewstep.plans.configs.recorded import read_recorded
from fewstep.plans.errors import UserError
from fewstep.plans.grids.ends import STEPS_LIMIT
from fewstep.plans.guidance import Guidance
from fewstep.plans.plan import Plan
from fewstep.plans.shaping import Shaping, describe_shaping
from fewstep.plans.spec import DenoiserFacts
from fewstep.plans.strength import StrengthRule, count_down, count_up, least_strength, warn_of_start

SA = "SASolverScheduler"
RECIPES: Mapping[str, Recipe] = {
    "CMStochasticIterativeScheduler": continuous.consistency,
    "CogVideoXDDIMScheduler": cogvideox.ddim,
    "CogVideoXDPMScheduler": cogvideox.dpm,
    "CosineDPMSolverMultistepScheduler": continuous.cosine_multistep,
    "DDIMInverseScheduler": diffusion.ddim_inverse,
    "DDIMScheduler": diffusion.ddim,
    "DDIMParallelScheduler": diffusion.ddim,
    "DDPMScheduler": diffusion.ddpm,
    "DDPMParallelScheduler": diffusion.ddpm,
    "DEISMultistepScheduler": dpm.deis,
    "DPMSolverSDEScheduler": k_diffusion.recipe("dpmpp_sde"),
    "DPMSolverMultistepInverseScheduler": dpm.multistep_inverse,
    "DPMSolverMultistepScheduler": dpm.multistep,
    "DPMSolverSinglestepScheduler": dpm.singlestep,
    "EDMDPMSolverMultistepScheduler": continuous.edm_multistep,
    "EDMEulerScheduler": continuous.edm_euler,
    "EulerAncestralDiscreteScheduler": k_diffusion.recipe("ddim", eta=1.0),
    "EulerDiscreteScheduler": k_diffusion.recipe("ddim"),
    FLOW: flows.flow_euler,
    "FlowMatchHeunDiscreteScheduler": flows.flow_heun,
    "FlowMatchLCMScheduler": flows.flow_lcm,
    "HeunDiscreteScheduler": k_diffusion.recipe("edm_heun"),
    "IPNDMScheduler": diffusion.ipndm,
    "KDPM2AncestralDiscreteScheduler": k_diffusion.recipe("dpm_2", whole_karras=True, eta=1.0),
    "KDPM2DiscreteScheduler": k_diffusion.recipe("dpm_2", whole_karras=True),
    "LCMScheduler": diffusion.lcm,
    "LTXEulerAncestralRFScheduler": flows.flow_ancestral,
    "LMSDiscreteScheduler": k_diffusion.lms,
    "PNDMScheduler": diffusion.pndm,
    "SCMScheduler": flows.scm,
    SA: dpm.sa_solver,
    "TCDScheduler": diffusion.tcd,
    "UniPCMultistepScheduler": dpm.unipc,
}
GRIDS_OF_STEPS = ("use_lu_lambdas", "use_flow_sigmas")  # grids by the number of steps, which ignore a caller's times


def plan_from_scheduler_config(
    config: str | Path | Mapping[str, Any],
    *,
    steps: int | None = None,
    timesteps: Sequence[float] | None = None,
    sigmas: Sequence[float] | None = None,
    guidance: float | Guidance | None = None,
    arguments: Mapping[str, float] | None = None,
    pipeline: str | None = None,
    guided: bool = True,
    x_shape: Sequence[int] | None = None,
    strength: float | None = None,
    self_condition: bool = False,
) -> Plan:
    """Return the plan that a diffusers scheduler runs.

    Args:
        config: a scheduler_config.json, the scheduler's or pipeline's folder that contains it, or its fields.
        steps: the pipeline's num_inference_steps.
        timesteps, sigmas: instead of `steps`, the times that a pipeline passes to set_timesteps, from noisy to clean.
            Sigmas of EulerDiscreteScheduler include the final one. Those of a flow are before their shift and do not.
        guidance: as for `compile_plan`.
        arguments: the arguments that a pipeline passes to the scheduler: `eta` (DDIM, TCD), `order` (LMS), `mu` or
            `tokens` (flows with a dynamic shift).
        pipeline: apply the rules of this pipeline for its scheduler (`pipelines.py`): StableDiffusionPipeline sets
            steps_offset 1 and clip_sample False, FluxPipeline passes sigmas, and most pipelines of Stable Diffusion
            pass eta 0, instead of TCD's default of 0.3.
        guided: whether the denoiser has an unconditional branch.
        x_shape: [channels, height, width], from which a pipeline's dynamic shift follows if `arguments` has none.
        strength: in (0, 1]: start from the given "image" and run int(steps x strength) steps, as
            StableDiffusionImg2ImgPipeline does. Pipelines of FLUX and Stable Diffusion 3 round up. With pipeline
            "LatentConsistencyModelImg2ImgPipeline" all steps run, and begin at the noise of the strength.
        self_condition: whether the network takes the last x0 after x.

    Raises UserError for a config or an argument that a plan cannot reproduce.
    """
    read_config = open_config(config, pipeline)
    scheduler = CLASSES[read_config.scheduler]
    given = {name: times for name, times in (("timesteps", timesteps), ("sigmas", sigmas)) if times is not None}
    if len(given) + (steps is not None) > 1:
        raise UserError(f"{read_config.source}: steps, timesteps and sigmas cannot be combined", "give one of them")
    user_times = {name: _user_times(read_config, name, times) for name, times in given.items()}
    for name, times in user_times.items():
        steps = len(times) - (name == "sigmas" and read_config.scheduler != FLOW)
    if isinstance(steps, bool) or not isinstance(steps, Integral):
        raise UserError(f"steps={steps!r} is not an integer", f"use 1 to {STEPS_LIMIT} steps")
    if not 1 <= steps <= STEPS_LIMIT:
        raise UserError(f"{steps} steps are out of range", f"use 1 to {STEPS_LIMIT} steps")
    numbers = check_numbers(read_config.source, arguments)
    request = _request(config, read_config, int(steps), numbers, pipeline, x_shape)
    request = replace(request, timesteps=user_times.get("timesteps"), sigmas=user_times.get("sigmas", request.sigmas))
    if strength is not None:
        request = _image_to_image_request(read_config, request, strength, pipeline)
    check_choices(read_config, request, scheduler)
    spec, prediction = scheduler.schedule(read_config)
    recipe = RECIPES[read_config.scheduler](read_config, request, spec)
    denoising = DenoiserFacts(spec, prediction, guided, heads=recipe.heads, self_condition=self_condition)
    name = f"{read_config.scheduler}:{steps}"
    times = recipe.times[request.skipped :]
    shaping = _only_shaping(read_config, request, recipe)
    plan = trace_plan(name, recipe.solver, times, denoising, guidance, shaping, strength=strength)
    plan = _scale_start(plan, recipe)
    if strength is not None and request.strength == 1:  # its steps were rounded
        warn_of_start(plan, strength, int(steps), _strength_rule(pipeline))
    if strength is not None and (own := OWN_NOISE.get(str(_fields(config).get(PIPELINE)))) is not None:
        return start_with_own_noise(plan, own.coefficients(float(strength), read_config["num_train_timesteps"]))
    return _leave_start_unheld(plan) if strength is None and _fields(config).get(UNHELD_START) else plan


def _request(
    stored: str | Path | Mapping[str, Any],
    config: SchedulerConfig,
    steps: int,
    arguments: Mapping[str, float],
    pipeline: str | None,
    x_shape: Sequence[int] | None,
) -> ScheduleRequest:
    """Return what a pipeline asks of its scheduler: the number of steps, its arguments and the sigmas that it sets."""
    recorded = read_recorded(read_config(stored)[1])
    if recorded is not None:
        sigmas = recorded.sigmas_of(steps)
        if recorded.even or sigmas is not None:
            _check_takes_sigmas(config, "the pipeline")
        passed = {**recorded.arguments(steps, x_shape), **_eta_argument(config, recorded.eta), **arguments}
        return ScheduleRequest(steps, passed, recorded.even and sigmas is None, sigmas=sigmas, shaping=recorded.shaping)
    if pipeline is None:
        return ScheduleRequest(steps, arguments)
    rules = PIPELINES[pipeline]
    if rules.unit_noise and CLASSES[config.scheduler].scales_x:
        what = f"{pipeline} begins with noise of deviation 1, and {config.scheduler} needs that of its largest sigma"
        raise UserError(
            f"{config.source}: {what}", "name a solver, such as --plan dpmpp_2m:20, or export with DDIMScheduler"
        )
    even = rules.even and not (rules.own_flow_sigmas and config.fields.get("use_flow_sigmas"))
    if even:
        _check_takes_sigmas(config, pipeline)
    if config.fields.get("use_dynamic_shifting") and x_shape is not None and not {"mu", "tokens"} & set(arguments):
        count = token_count(rules, x_shape)
        if count is not None and config.scheduler in TAKE_SIGMAS:
            arguments = {**arguments, "tokens": count}
        elif count is not None:
            arguments = {**arguments, "mu": dynamic_mu(rules, read_config(stored)[1], count)}
    if rules.passes_eta:
        arguments = {**_eta_argument(config, 0.0), **arguments}
    return ScheduleRequest(steps, arguments, even)


def _only_shaping(config: SchedulerConfig, request: ScheduleRequest, recipe: SchedulerRecipe) -> Shaping | None:
    """Return the shaping of the scheduler or of its pipeline, or None if neither has one. Raises UserError if both have
    one."""
    own, passed = recipe.shaping.shaping, request.shaping
    if own is not None and passed is not None:
        what = f"{config.source}: the pipeline's output is {describe_shaping(passed)}, then {describe_shaping(own)}"
        raise UserError(what, "give SOLVER:STEPS; a plan has one shaping")
    return own if passed is None else passed


def _eta_argument(config: SchedulerConfig, eta: float | None) -> dict[str, float]:
    """Return the argument eta that a pipeline passes, by name. An eta of 0 is left out for a class whose steps have no
    noise."""
    is_idle = eta == 0 and "eta" not in CLASSES[config.scheduler].arguments
    return {} if eta is None or is_idle else {"eta": eta}


def _check_takes_sigmas(config: SchedulerConfig, pipeline: str) -> None:
    """Raise UserError if plans of a scheduler do not accept sigmas."""
    if config.scheduler not in TAKE_SIGMAS:
        what = f"{config.source}: {pipeline} passes sigmas, which a plan of {config.scheduler} does not accept"
        raise UserError(what, "name a solver and a grid, such as dpmpp_2m:20@flow_shift")


def _user_times(config: SchedulerConfig, name: str, times: Sequence[float]) -> tuple[float, ...]:
    """Return a caller's times. Raises UserError if the class does not accept them, or if they do not decrease."""
    if name not in CLASSES[config.scheduler].own_times:
        takers = (scheduler for scheduler, kind in CLASSES.items() if name in kind.own_times)
        raise UserError(f"{config.scheduler} does not accept {name}", f"give steps, or use {', '.join(takers)}")
    if others := [field for field in (*OTHER_SIGMAS, *GRIDS_OF_STEPS) if config.fields.get(field)]:
        raise config.field_error(others[0], f"it excludes {name}", f"leave {name} out")
    if name == "timesteps" and k_diffusion.has_edm_times(config):
        raise config.field_error("timestep_type", "the network's times are log(sigma) / 4", "give sigmas")
    fix = "give decreasing numbers, from noisy to clean"
    numbers = tuple(times) if isinstance(times, Iterable) else ()
    if not numbers or not all(isinstance(number, Real) and not isinstance(number, bool) for number in numbers):
        raise UserError(f"{config.source}: {name} {times!r:.80} is not a list of numbers", fix)
    if not all(s > t for s, t in pairwise(numbers)) or not 0 <= numbers[-1] <= numbers[0] <= MOST:
        raise UserError(f"{config.source}: {name} {list(numbers)[:8]} do not decrease, or are out of range", fix)
    if config.scheduler == FLOW and numbers[0] > 1:
        raise UserError(f"{config.source}: sigma {numbers[0]:g} of a flow is above 1", "give sigmas from 1 to 0")
    betas = config.fields.get("trained_betas")
    table = config["num_train_timesteps"] if betas is None else len(betas)
    if name == "timesteps" and numbers[0] > table - 1:
        why = f"timestep {numbers[0]:g} is beyond the table of {table}"
        raise UserError(f"{config.source}: {why}", f"give timesteps from {table - 1} to 0")
    return tuple(map(float, numbers))


def _image_to_image_request(
    config: SchedulerConfig, request: ScheduleRequest, strength: float, pipeline: str | None
) -> ScheduleRequest:
    """Return the request of an image-to-image pipeline, which passes the strength to set_timesteps, or skips the first
    steps."""
    if not isinstance(strength, Real) or not 0 < strength <= 1:
        raise UserError(f"strength {strength!r} is not in (0, 1]", "give one in (0, 1] that leaves a step")
    if not CLASSES[config.scheduler].starts_from_images:
        raise UserError(
            f"{config.scheduler} does not accept a strength, since its steps depend on previous ones",
            "name a solver, such as --plan dpmpp_2m:20",
        )
    others = [name for name in (*OTHER_SIGMAS, "use_flow_sigmas") if config.fields.get(name)]
    if config.scheduler == SA and others:
        why = "it adds noise to an image by its table of betas, which differs from these sigmas"
        raise config.field_error(others[0], why, "name a solver, such as dpmpp_2m:20")
    rules = PipelineRules() if pipeline is None else PIPELINES[pipeline]
    takes_strength = "original_inference_steps" in config.fields  # set_timesteps has an argument strength
    has_own_times = request.timesteps is not None or request.sigmas is not None  # which a strength does not shorten
    if rules.shortens and takes_strength and not has_own_times and strength < 1:
        return replace(request, strength=float(strength))
    run = _strength_rule(pipeline)(strength, request.steps)
    if not run:
        what = f"strength {strength!r} leaves none of {request.steps} steps"
        raise UserError(what, f"give {least_strength(1, request.steps):g} or more, or {ceil(1 / strength)} steps")
    return replace(request, skipped=request.steps - run)


def _strength_rule(pipeline: str | None) -> StrengthRule:
    """Return how a pipeline rounds a strength to steps."""
    return count_up if pipeline is not None and PIPELINES[pipeline].rounds_up else count_down


def _scale_start(plan: Plan, recipe: SchedulerRecipe) -> Plan:
    """Scale the plan's first draw, the input of its shaping and its sample by the factors of the recipe."""
    factor = 1.0 if recipe.start is None or plan.strength is not None else recipe.start / recipe.times[0].sigma
    start = tuple((row[0] * factor, *row[1:]) for row in plan.start)
    output = tuple(recipe.scale * number for number in plan.output)
    steps = tuple(
        msgspec.structs.replace(
            step, shaping_of=tuple(tuple(recipe.shaping.gain * number for number in row) for row in step.shaping_of)
        )
        for step in plan.steps
    )
    return msgspec.structs.replace(plan, start=start, steps=steps, output=output)


def _fields(config: str | Path | Mapping[str, Any]) -> Mapping[str, Any]:
    """Return all fields of a config, with those about its pipeline."""
    return read_config(config)[1]


def _leave_start_unheld(plan: Plan) -> Plan:
    """Return the plan with a first step before which no hold sets a part of x."""
    first, *others = plan.steps
    return msgspec.structs.replace(plan, steps=(msgspec.structs.replace(first, unheld=True), *others))
