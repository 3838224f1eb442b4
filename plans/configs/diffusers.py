"""Plans from the scheduler_config.json of diffusers (the rules of its version 0.42), without it and without torch.

    plan = plan_from_scheduler_config("model/scheduler", steps=20)
    spec, prediction = schedule_from_scheduler_config("model/scheduler")

They give the samples of its schedulers with their mistakes, which docs/samplers.md lists.
"""

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import pairwise
from numbers import Integral, Real
from pathlib import Path
from typing import Any

import msgspec

from fewstep.plans.compile import trace_plan
from fewstep.plans.configs import cogvideox, continuous, diffusion, discrete, dpm, flows, k_diffusion
from fewstep.plans.configs.config import SchedulerConfig, read, resolve
from fewstep.plans.configs.discrete import OTHER_SIGMAS
from fewstep.plans.configs.pipelines import FLOW, PIPELINES, PipelineRules, tokens
from fewstep.plans.configs.recipe import MOST, ScheduleRequest, SchedulerRecipe, check_numbers
from fewstep.plans.configs.unrunnable import check_runs
from fewstep.plans.errors import UserError
from fewstep.plans.grids.ends import STEPS_LIMIT
from fewstep.plans.guidance import Guidance
from fewstep.plans.plan import Plan
from fewstep.plans.spec import DenoiserFacts, Prediction, ScheduleSpec

Schedule = Callable[[SchedulerConfig], tuple[ScheduleSpec, Prediction]]


@dataclass(frozen=True)
class Scheduler:
    """A class of diffusers: the defaults of its fields, and what they mean."""

    defaults: Mapping[str, Any]
    recipe: Callable[[SchedulerConfig, ScheduleRequest], SchedulerRecipe]
    schedule: Schedule = discrete.schedule


SCHEDULERS: dict[str, Scheduler] = {
    "CMStochasticIterativeScheduler": Scheduler(
        continuous.CONSISTENCY, continuous.consistency, continuous.consistency_schedule
    ),
    "CogVideoXDDIMScheduler": Scheduler(cogvideox.COGVIDEOX, cogvideox.ddim, cogvideox.schedule),
    "CogVideoXDPMScheduler": Scheduler(cogvideox.COGVIDEOX, cogvideox.dpm, cogvideox.schedule),
    "CosineDPMSolverMultistepScheduler": Scheduler(
        continuous.COSINE, continuous.cosine_multistep, continuous.cosine_schedule
    ),
    "DDIMInverseScheduler": Scheduler(diffusion.DDIM_INVERSE, diffusion.ddim_inverse),
    "DDIMScheduler": Scheduler(diffusion.DDIM, diffusion.ddim),
    "DDIMParallelScheduler": Scheduler(diffusion.DDIM, diffusion.ddim),
    "DDPMScheduler": Scheduler(diffusion.DDPM, diffusion.ddpm),
    "DDPMParallelScheduler": Scheduler(diffusion.DDPM, diffusion.ddpm),
    "DEISMultistepScheduler": Scheduler(dpm.DEIS, dpm.deis),
    "DPMSolverSDEScheduler": Scheduler(k_diffusion.SDE, k_diffusion.sde),
    "DPMSolverMultistepInverseScheduler": Scheduler(dpm.MULTISTEP_INVERSE, dpm.multistep_inverse),
    "DPMSolverMultistepScheduler": Scheduler(dpm.MULTISTEP, dpm.multistep),
    "DPMSolverSinglestepScheduler": Scheduler(dpm.SINGLESTEP, dpm.singlestep),
    "EDMDPMSolverMultistepScheduler": Scheduler(
        continuous.EDM_MULTISTEP, continuous.edm_multistep, continuous.edm_schedule
    ),
    "EDMEulerScheduler": Scheduler(continuous.EDM, continuous.edm_euler, continuous.edm_schedule),
    "EulerAncestralDiscreteScheduler": Scheduler(k_diffusion.EULER_ANCESTRAL, k_diffusion.euler_ancestral),
    "EulerDiscreteScheduler": Scheduler(k_diffusion.EULER, k_diffusion.euler),
    "FlowMatchEulerDiscreteScheduler": Scheduler(flows.FLOW_EULER, flows.flow_euler, flows.flow_schedule),
    "FlowMatchHeunDiscreteScheduler": Scheduler(flows.FLOW_HEUN, flows.flow_heun, flows.flow_schedule),
    "FlowMatchLCMScheduler": Scheduler(flows.FLOW_LCM, flows.flow_lcm, flows.flow_schedule),
    "HeunDiscreteScheduler": Scheduler(k_diffusion.HEUN, k_diffusion.heun),
    "IPNDMScheduler": Scheduler(diffusion.IPNDM, diffusion.ipndm, lambda config: (ScheduleSpec("trigonometric"), "v")),
    "KDPM2AncestralDiscreteScheduler": Scheduler(k_diffusion.KDPM2, k_diffusion.kdpm2_ancestral),
    "KDPM2DiscreteScheduler": Scheduler(k_diffusion.KDPM2, k_diffusion.kdpm2),
    "LCMScheduler": Scheduler(diffusion.LCM, diffusion.lcm),
    "LTXEulerAncestralRFScheduler": Scheduler(flows.ANCESTRAL, flows.flow_ancestral, flows.flow_schedule),
    "LMSDiscreteScheduler": Scheduler(k_diffusion.LMS, k_diffusion.lms),
    "PNDMScheduler": Scheduler(diffusion.PNDM, diffusion.pndm),
    "SCMScheduler": Scheduler(flows.SCM, flows.scm, flows.scm_schedule),
    "SASolverScheduler": Scheduler(dpm.SA, dpm.sa_solver),
    "TCDScheduler": Scheduler(diffusion.TCD, diffusion.tcd),
    "UniPCMultistepScheduler": Scheduler(dpm.UNIPC, dpm.unipc),
}

OWN_TIMES = {  # arguments of set_timesteps, and the classes that take them
    "timesteps": (
        "DDPMScheduler",
        "DPMSolverMultistepScheduler",
        "EulerDiscreteScheduler",
        "HeunDiscreteScheduler",
        "LCMScheduler",
        "TCDScheduler",
    ),
    "sigmas": ("EulerDiscreteScheduler", FLOW),
}
GRIDS_OF_STEPS = ("use_lu_lambdas", "use_flow_sigmas")  # laid by the number of steps, whatever times a caller has
DISTILLED = ("LCMScheduler", "TCDScheduler")  # set_timesteps takes a strength
OF_DISTILLED = (*DISTILLED, "CMStochasticIterativeScheduler", "FlowMatchLCMScheduler", "SCMScheduler")  # networks
NOT_FROM_IMAGES = (  # classes whose steps depend on those before, or that begin with a sample of their own
    *("CMStochasticIterativeScheduler", "CogVideoXDPMScheduler", "CosineDPMSolverMultistepScheduler"),
    *("DDIMInverseScheduler", "DPMSolverMultistepInverseScheduler", "DPMSolverSDEScheduler", "SCMScheduler"),
    *("DPMSolverSinglestepScheduler", "EDMDPMSolverMultistepScheduler", "IPNDMScheduler", "LMSDiscreteScheduler"),
    *("LTXEulerAncestralRFScheduler", "PNDMScheduler"),
)


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
) -> Plan:
    """The plan that a diffusers scheduler runs.

    Args:
        config: a scheduler_config.json, the folder (or the pipeline's) that holds it, or its fields.
        steps: what the pipeline calls num_inference_steps. In its place `timesteps` or `sigmas`, as a pipeline passes
            them to set_timesteps, from noisy to clean: sigmas of EulerDiscreteScheduler with the last one, those of a
            flow before their shift and without it.
        guidance: as for `compile_plan`.
        arguments: what a pipeline passes on to the scheduler: `eta` (DDIM, TCD), `order` (LMS), `mu` or `tokens` (flows
            with a dynamic shift).
        pipeline: apply what this pipeline does to its scheduler (`pipelines.py`): StableDiffusionPipeline sets
            steps_offset 1 and clip_sample False, FluxPipeline gives it sigmas.
        guided: whether the denoiser has an unconditional form.
        x_shape: [channels, height, width]: a pipeline's dynamic shift follows from it, where `arguments` has none.
        strength: in (0, 1]: from the given "image", as StableDiffusionImg2ImgPipeline starts: int(steps x strength)
            steps. Pipelines of FLUX and Stable Diffusion 3 round up. With pipeline
            "LatentConsistencyModelImg2ImgPipeline" all steps run, below the noise of the strength.
    """
    scheduler, read_config = _open(config, pipeline)
    brought = {name: times for name, times in (("timesteps", timesteps), ("sigmas", sigmas)) if times is not None}
    if len(brought) + (steps is not None) > 1:
        raise UserError(f"{read_config.source}: steps, timesteps and sigmas", "give one of them")
    own = {name: _own_numbers(read_config, name, times) for name, times in brought.items()}
    for name, times in own.items():
        steps = len(times) - (name == "sigmas" and read_config.scheduler != FLOW)
    if isinstance(steps, bool) or not isinstance(steps, Integral):
        raise UserError(f"steps={steps!r} is no whole number", f"ask for 1 .. {STEPS_LIMIT}")
    if not 1 <= steps <= STEPS_LIMIT:
        raise UserError(f"{steps} steps make no sample", f"ask for 1 .. {STEPS_LIMIT}")
    numbers = check_numbers(read_config.source, arguments)
    request = _request(read_config, int(steps), numbers, pipeline, x_shape)
    request = replace(request, timesteps=own.get("timesteps"), sigmas=own.get("sigmas"))
    if strength is not None:
        request = _from_image(read_config, request, strength, pipeline)
    recipe = scheduler.recipe(read_config, request)
    check_runs(read_config, request)
    denoising = DenoiserFacts(recipe.spec, recipe.prediction, guided, heads=recipe.heads)
    name = f"{read_config.scheduler}:{steps}"
    times = recipe.times[request.skipped :]
    plan = trace_plan(name, recipe.solver, times, denoising, guidance, recipe.shaping.shaping, strength=strength)
    return _started(plan, recipe)


def schedule_from_scheduler_config(
    config: str | Path | Mapping[str, Any], *, pipeline: str | None = None
) -> tuple[ScheduleSpec, Prediction]:
    """The schedule and prediction that a diffusers scheduler's config describes: what export needs to know."""
    scheduler, read_config = _open(config, pipeline)
    return scheduler.schedule(read_config)


def _open(config: str | Path | Mapping[str, Any], pipeline: str | None) -> tuple[Scheduler, SchedulerConfig]:
    source, fields = read(config)
    name = fields.get("_class_name")
    if not isinstance(name, str) or name not in SCHEDULERS:
        raise UserError(f"{source}: unknown scheduler class {name!r}", f"choose one of {', '.join(SCHEDULERS)}")
    if pipeline is not None and pipeline not in PIPELINES:
        raise UserError(f"unknown pipeline {pipeline!r}", f"choose one of {', '.join(PIPELINES)}")
    scheduler = SCHEDULERS[name]
    fields |= PIPELINES[pipeline].changes if pipeline else {}
    return scheduler, resolve(source, fields, name, scheduler.defaults)


def _request(
    config: SchedulerConfig,
    steps: int,
    arguments: Mapping[str, float],
    pipeline: str | None,
    x_shape: Sequence[int] | None,
) -> ScheduleRequest:
    """The pipeline's request to its scheduler."""
    if pipeline is None or config.scheduler != FLOW:
        return ScheduleRequest(steps, arguments)
    rules = PIPELINES[pipeline]
    if config["use_dynamic_shifting"] and x_shape is not None and not {"mu", "tokens"} & set(arguments):
        count = tokens(rules, x_shape)
        arguments = {**arguments, **({} if count is None else {"tokens": count})}
    return ScheduleRequest(steps, arguments, rules.even)


def _own_numbers(config: SchedulerConfig, name: str, times: Sequence[float]) -> tuple[float, ...]:
    """A caller's own times. UserError if the class takes none, or if they do not fall."""
    if config.scheduler not in OWN_TIMES[name]:
        raise UserError(f"{config.scheduler} with {name}", f"they are for {', '.join(OWN_TIMES[name])}")
    if others := [field for field in (*OTHER_SIGMAS, *GRIDS_OF_STEPS) if config.fields.get(field)]:
        raise config.refuse(others[0], f"it excludes {name}", f"leave {name} out")
    if name == "timesteps" and k_diffusion.has_edm_times(config):
        raise config.refuse("timestep_type", "the network is passed log(sigma) / 4", "give sigmas")
    fix = "give numbers from noisy to clean, each smaller"
    numbers = tuple(times) if isinstance(times, Iterable) else ()
    if not numbers or not all(isinstance(each, Real) and not isinstance(each, bool) for each in numbers):
        raise UserError(f"{config.source}: {name} {times!r:.80} are no list of numbers", fix)
    if not all(s > t for s, t in pairwise(numbers)) or not 0 <= numbers[-1] <= numbers[0] <= MOST:
        raise UserError(f"{config.source}: {name} {list(numbers)[:8]}", fix)
    if config.scheduler == FLOW and numbers[0] > 1:
        raise UserError(f"{config.source}: sigma {numbers[0]:g} of a flow", "give sigmas from 1 to 0")
    betas = config.fields.get("trained_betas")
    table = config["num_train_timesteps"] if betas is None else len(betas)
    if name == "timesteps" and numbers[0] > table - 1:
        why = f"timestep {numbers[0]:g} is beyond the table of {table}"
        raise UserError(f"{config.source}: {why}", f"give timesteps from {table - 1} to 0")
    return tuple(map(float, numbers))


def _from_image(
    config: SchedulerConfig, request: ScheduleRequest, strength: float, pipeline: str | None
) -> ScheduleRequest:
    """The request of an image-to-image pipeline: it passes the strength on to set_timesteps, or skips first steps."""
    if not isinstance(strength, Real) or not 0 < strength <= 1:
        raise UserError(f"strength {strength!r}", "give one in (0, 1] that leaves a step")
    if config.scheduler in NOT_FROM_IMAGES:
        raise UserError(
            f"strength with {config.scheduler}, whose steps depend on those before",
            "leave --plan out, or name a solver, such as dpmpp_2m:20",
        )
    rules = PipelineRules() if pipeline is None else PIPELINES[pipeline]
    has_own_times = request.timesteps is not None or request.sigmas is not None  # no strength shortens those
    if rules.shortens and config.scheduler in DISTILLED and not has_own_times and strength < 1:
        return replace(request, strength=float(strength))
    run = request.steps * strength
    skipped = int(request.steps - run) if rules.rounds_up else request.steps - int(run)
    if skipped == request.steps:
        raise UserError(f"strength {strength!r} of {request.steps} steps", "give one in (0, 1] that leaves a step")
    return replace(request, skipped=skipped)


def _started(plan: Plan, recipe: SchedulerRecipe) -> Plan:
    """The plan with its first draw, the input of its shaping and its sample scaled as the recipe says."""
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
