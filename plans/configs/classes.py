"""The scheduler classes of diffusers: the defaults of their fields, the arguments of their callers, their schedules."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from math import inf
from pathlib import Path
from typing import Any

from fewstep.plans.configs import schedules
from fewstep.plans.configs.config import ABSENT, SchedulerConfig, read_config, resolve
from fewstep.plans.configs.pipelines import FLOW, PIPELINES
from fewstep.plans.configs.schedules import Described, Schedule
from fewstep.plans.errors import UserError

# -- fields that several classes have

BETAS = {
    "num_train_timesteps": 1000,
    "beta_start": 0.0001,
    "beta_end": 0.02,
    "beta_schedule": "linear",
    "trained_betas": None,
    "prediction_type": "epsilon",
    "timestep_spacing": "linspace",
    "steps_offset": 0,
}
OTHER_SIGMAS = {"use_karras_sigmas": False, "use_exponential_sigmas": False, "use_beta_sigmas": False}
# Classes with OTHER_SIGMAS read these from their config, even if their constructor does not have these arguments.
ENDS = {"sigma_min": None, "sigma_max": None}
THRESHOLDING = {"thresholding": False, "dynamic_thresholding_ratio": 0.995, "sample_max_value": 1.0}
ZERO_SNR = {"rescale_betas_zero_snr": False}
CLIPPING = {"clip_sample": True, "clip_sample_range": 1.0}
LATENT = {"beta_start": 0.00085, "beta_end": 0.012}  # the betas of Stable Diffusion 1

# -- tables of alpha_bar

LEADING = {**BETAS, "timestep_spacing": "leading"}
DDPM = {**LEADING, **THRESHOLDING, **CLIPPING, **ZERO_SNR, "variance_type": "fixed_small"}
DDIM_INVERSE = {**LEADING, **CLIPPING, **ZERO_SNR, "set_alpha_to_one": True}
DDIM = {**DDIM_INVERSE, **THRESHOLDING}
PNDM = {**LEADING, "skip_prk_steps": False, "set_alpha_to_one": False}
COGVIDEOX = {
    **DDIM_INVERSE,
    **LATENT,
    "sample_max_value": 1.0,
    "beta_schedule": "scaled_linear",
    "snr_shift_scale": 3.0,
}
TCD = {**LEADING, **LATENT, **ZERO_SNR, "beta_schedule": "scaled_linear", "original_inference_steps": 50}
LCM = {**TCD, **THRESHOLDING, **CLIPPING, "clip_sample": False, "timestep_scaling": 10.0}

# -- solvers in lambda

SHARED = {
    **BETAS,
    **OTHER_SIGMAS,
    **ENDS,
    **THRESHOLDING,
    "use_flow_sigmas": False,
    "flow_shift": 1.0,
    "lower_order_final": True,
}
SHIFTED = {"use_dynamic_shifting": False, "time_shift_type": "exponential"}
ORDER = {"solver_order": 2, "solver_type": "midpoint"}
PLUS_PLUS = {**ORDER, "algorithm_type": "dpmsolver++"}
CLIPPED = {"lambda_min_clipped": -inf, "variance_type": None}
DPM = {**SHARED, **SHIFTED, **PLUS_PLUS, **CLIPPED, "final_sigmas_type": "zero"}
MULTISTEP = {**DPM, **ZERO_SNR, "euler_at_final": False, "use_lu_lambdas": False}
MULTISTEP_INVERSE = {**SHARED, **PLUS_PLUS, **CLIPPED, "euler_at_final": False}
SINGLESTEP = {**DPM, "lower_order_final": False}
DEIS = {**SHARED, **SHIFTED, "solver_order": 2, "algorithm_type": "deis", "solver_type": "logrho"}
UNIPC = {
    **SHARED,
    **SHIFTED,
    **ZERO_SNR,
    "solver_order": 2,
    "predict_x0": True,
    "solver_type": "bh2",
    "disable_corrector": [],
    "final_sigmas_type": "zero",
    "shift_terminal": None,
}
SA = {
    **SHARED,
    **CLIPPED,
    "predictor_order": 2,
    "corrector_order": 2,
    "tau_func": None,
    "algorithm_type": "data_prediction",
}

# -- from k-diffusion

EULER = {
    **BETAS,
    **OTHER_SIGMAS,
    **ENDS,
    **ZERO_SNR,
    "interpolation_type": "linear",
    "timestep_type": "discrete",
    "final_sigmas_type": "zero",
}
EULER_ANCESTRAL = {**BETAS, **ZERO_SNR}
LMS = {**BETAS, **OTHER_SIGMAS, **ENDS}
KDPM2 = {**LMS, **LATENT}
HEUN = {**KDPM2, "clip_sample": False, "clip_sample_range": 1.0}
SDE = {**KDPM2, "noise_sampler_seed": None}

# -- without a table of timesteps

EDM = {
    "sigma_min": 0.002,
    "sigma_max": 80.0,
    "sigma_data": 0.5,
    "sigma_schedule": "karras",
    "num_train_timesteps": 1000,
    "prediction_type": "epsilon",
    "rho": 7.0,
    "final_sigmas_type": "zero",
}
LAST_STEPS = {"lower_order_final": True, "euler_at_final": False}
EDM_MULTISTEP = {**EDM, **THRESHOLDING, **PLUS_PLUS, **LAST_STEPS}
COSINE = {
    **EDM,
    **ORDER,
    **LAST_STEPS,
    "sigma_min": 0.3,
    "sigma_max": 500.0,
    "sigma_data": 1.0,
    "sigma_schedule": "exponential",
    "prediction_type": "v_prediction",
}
CONSISTENCY = {
    "num_train_timesteps": 40,
    "sigma_min": 0.002,
    "sigma_max": 80.0,
    "sigma_data": 0.5,
    "s_noise": 1.0,
    "rho": 7.0,
    "clip_denoised": True,
}
FLOW_HEUN = {"num_train_timesteps": 1000, "shift": 1.0}
FLOW_SHIFTED = {
    **FLOW_HEUN,
    **OTHER_SIGMAS,
    **ENDS,
    **SHIFTED,
    "base_shift": 0.5,
    "max_shift": 1.15,
    "base_image_seq_len": 256,
    "max_image_seq_len": 4096,
    "invert_sigmas": False,
    "shift_terminal": None,
}
FLOW_LCM = {**FLOW_SHIFTED, "scale_factors": None, "upscale_mode": "bicubic"}
FLOW_ANCESTRAL = {**FLOW_SHIFTED, "eta": 1.0, "s_noise": 1.0}  # the fields of Euler's class make its sigmas


@dataclass(frozen=True)
class SchedulerClass:
    """A scheduler class of diffusers.

    defaults: the defaults of its fields.
    schedule: returns the noise schedule and prediction that its fields describe.
    arguments: the arguments that a pipeline may pass to it.
    choices: for fields of which it accepts fewer values than `config.CHOICES` has, these values, and the fix for any
        other.
    own_times: which of "timesteps" and "sigmas" its set_timesteps accepts.
    starts_from_images: image-to-image runs work. False if steps depend on previous steps, or if it starts from a given
        sample.
    is_distilled: it samples networks that were distilled to few steps.
    scales_x: its `init_noise_sigma` is not 1: x begins with the largest sigma, and is scaled for the network.
    """

    defaults: Mapping[str, Any]
    schedule: Schedule = schedules.table_schedule
    arguments: Sequence[str] = ()
    choices: Mapping[str, tuple[tuple[str, ...], str]] = field(default_factory=dict)
    own_times: Sequence[str] = ()
    starts_from_images: bool = True
    is_distilled: bool = False
    scales_x: bool = False


def _algorithms(*names: str) -> dict[str, tuple[tuple[str, ...], str]]:
    return {"algorithm_type": (names, f"set {names[0]}")}


NO_SAMPLE = {"prediction_type": (("epsilon", "v_prediction", "flow_prediction"), "use EulerDiscreteScheduler")}
NO_LINSPACE = {"timestep_spacing": (("leading", "trailing"), "set leading")}
ON_NOISE = {"prediction_type": (("epsilon", "v_prediction"), "use DDIMScheduler")}
DDIM_CLASS = SchedulerClass(DDIM, arguments=("eta",))
CLASSES: Mapping[str, SchedulerClass] = {
    "CMStochasticIterativeScheduler": SchedulerClass(
        CONSISTENCY,
        schedules.consistency,
        starts_from_images=False,
        is_distilled=True,
        scales_x=True,
    ),
    "CogVideoXDDIMScheduler": SchedulerClass(COGVIDEOX, schedules.cogvideox),
    "CogVideoXDPMScheduler": SchedulerClass(COGVIDEOX, schedules.cogvideox, starts_from_images=False),
    "CosineDPMSolverMultistepScheduler": SchedulerClass(
        COSINE, schedules.cosine, starts_from_images=False, scales_x=True
    ),
    "DDIMInverseScheduler": SchedulerClass(DDIM_INVERSE, choices=NO_LINSPACE, starts_from_images=False),
    "DDIMScheduler": DDIM_CLASS,
    "DDIMParallelScheduler": DDIM_CLASS,
    "DDPMScheduler": SchedulerClass(DDPM, own_times=("timesteps",)),
    "DDPMParallelScheduler": SchedulerClass(DDPM),
    "DEISMultistepScheduler": SchedulerClass(
        DEIS, arguments=("mu",), choices=_algorithms("deis", "dpmsolver++", "dpmsolver")
    ),
    "DPMSolverSDEScheduler": SchedulerClass(SDE, choices=NO_SAMPLE, starts_from_images=False, scales_x=True),
    "DPMSolverMultistepInverseScheduler": SchedulerClass(
        MULTISTEP_INVERSE, choices=_algorithms("dpmsolver++", "dpmsolver", "deis"), starts_from_images=False
    ),
    "DPMSolverMultistepScheduler": SchedulerClass(
        MULTISTEP,
        arguments=("mu",),
        choices=_algorithms("dpmsolver++", "dpmsolver", "sde-dpmsolver++", "sde-dpmsolver", "deis"),
        own_times=("timesteps",),
    ),
    "DPMSolverSinglestepScheduler": SchedulerClass(
        SINGLESTEP,
        arguments=("mu",),
        choices=_algorithms("dpmsolver++", "dpmsolver", "sde-dpmsolver++", "deis"),
        starts_from_images=False,
    ),
    "EDMDPMSolverMultistepScheduler": SchedulerClass(
        EDM_MULTISTEP,
        schedules.edm,
        choices=_algorithms("dpmsolver++", "sde-dpmsolver++", "deis"),
        starts_from_images=False,
        scales_x=True,
    ),
    "EDMEulerScheduler": SchedulerClass(EDM, schedules.edm, scales_x=True),
    "EulerAncestralDiscreteScheduler": SchedulerClass(EULER_ANCESTRAL, choices=NO_SAMPLE, scales_x=True),
    "EulerDiscreteScheduler": SchedulerClass(EULER, own_times=("timesteps", "sigmas"), scales_x=True),
    FLOW: SchedulerClass(
        {**FLOW_SHIFTED, "stochastic_sampling": False}, schedules.flow, ("mu", "tokens"), own_times=("sigmas",)
    ),
    "FlowMatchHeunDiscreteScheduler": SchedulerClass(FLOW_HEUN, schedules.flow),
    "FlowMatchLCMScheduler": SchedulerClass(FLOW_LCM, schedules.flow, ("mu", "tokens"), is_distilled=True),
    "HeunDiscreteScheduler": SchedulerClass(HEUN, own_times=("timesteps",), scales_x=True),
    "IPNDMScheduler": SchedulerClass(
        {"num_train_timesteps": 1000, "trained_betas": None}, schedules.ipndm, starts_from_images=False
    ),
    "KDPM2AncestralDiscreteScheduler": SchedulerClass(KDPM2, choices=NO_SAMPLE, scales_x=True),
    "KDPM2DiscreteScheduler": SchedulerClass(KDPM2, choices=NO_SAMPLE, scales_x=True),
    "LCMScheduler": SchedulerClass(LCM, own_times=("timesteps",), is_distilled=True),
    "LTXEulerAncestralRFScheduler": SchedulerClass(FLOW_ANCESTRAL, schedules.flow, starts_from_images=False),
    "LMSDiscreteScheduler": SchedulerClass(LMS, arguments=("order",), starts_from_images=False, scales_x=True),
    "PNDMScheduler": SchedulerClass(PNDM, choices=ON_NOISE, starts_from_images=False),
    "SCMScheduler": SchedulerClass(
        {"num_train_timesteps": 1000, "sigma_data": 0.5}, schedules.scm, starts_from_images=False, is_distilled=True
    ),
    "SASolverScheduler": SchedulerClass(SA),
    "TCDScheduler": SchedulerClass(TCD, arguments=("eta",), own_times=("timesteps",), is_distilled=True),
    "UniPCMultistepScheduler": SchedulerClass(UNIPC, arguments=("mu",)),
}


def open_config(config: str | Path | Mapping[str, Any], pipeline: str | None) -> SchedulerConfig:
    """Read a config, apply the changes of a pipeline, and resolve it as its class does. Raises UserError for an unknown
    class or pipeline."""
    source, fields = read_config(config)
    if pipeline is not None and pipeline not in PIPELINES:
        raise UserError(f"unknown pipeline {pipeline!r}", f"choose one of {', '.join(PIPELINES)}")
    changes = PIPELINES[pipeline].changes if pipeline else {}
    fields |= changes
    if isinstance(absent := fields.get(ABSENT), list | tuple):  # a pipeline changes its scheduler after it is loaded
        fields[ABSENT] = [name for name in absent if name not in changes]
    name = fields.get("_class_name")
    if not isinstance(name, str) or name not in CLASSES:
        raise UserError(f"{source}: unknown scheduler class {name!r}", f"choose one of {', '.join(CLASSES)}")
    return resolve(source, fields, name, CLASSES[name].defaults)


def schedule_from_scheduler_config(config: str | Path | Mapping[str, Any], *, pipeline: str | None = None) -> Described:
    """Return the schedule and prediction that the config of a diffusers scheduler describes, for export."""
    resolved = open_config(config, pipeline)
    return CLASSES[resolved.scheduler].schedule(resolved)


def is_distilled_sampler(fields: Mapping[str, Any]) -> bool:
    """True if the class of a config samples distilled networks."""
    known = CLASSES.get(fields.get("_class_name", ""))
    return known is not None and known.is_distilled
