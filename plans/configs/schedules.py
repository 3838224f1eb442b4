"""The noise schedule and the prediction that a scheduler's config describes, for each class of diffusers."""

from collections.abc import Callable
from math import expm1

import numpy as np
from msgspec.structs import replace

from fewstep.plans import paths
from fewstep.plans.configs import tables
from fewstep.plans.configs.config import SchedulerConfig
from fewstep.plans.schedule import NoiseSchedule
from fewstep.plans.spec import Prediction, ScheduleSpec

Described = tuple[ScheduleSpec, Prediction]
Schedule = Callable[[SchedulerConfig], Described]
KINDS = {
    "linear": "linear",
    "scaled_linear": "scaled-linear",
    "squaredcos_cap_v2": "cosine",
    "sigmoid": "sigmoid",
}
EXP, OF_EXP = "exp", "HeunDiscreteScheduler"  # the betas of this class alone, which are equal
DECAY = 12.0  # alpha_bar = exp(-12 t / T)
PREDICTIONS: dict[str, Prediction] = {
    "epsilon": "epsilon",
    "sample": "sample",
    "v_prediction": "v",
    "flow_prediction": "flow",
}


def table_schedule(config: SchedulerConfig) -> Described:
    """Return the noise schedule of the config's betas, or the flow schedule if `use_flow_sigmas` is set, and the
    prediction."""
    prediction = PREDICTIONS[config["prediction_type"]]
    T = config["num_train_timesteps"]
    if config.fields.get("use_flow_sigmas"):
        return _check_spec(ScheduleSpec("flow", T)), prediction
    if prediction == "flow":
        raise config.field_error("prediction_type", "a velocity needs the schedule of a flow", "set use_flow_sigmas")
    zero = bool(config.fields.get("rescale_betas_zero_snr"))
    betas = config["trained_betas"]
    if betas is not None:
        spec = ScheduleSpec("betas", len(betas), betas=tuple(float(beta) for beta in betas), zero_terminal_snr=zero)
    elif config["beta_schedule"] == EXP:
        if config.scheduler != OF_EXP:
            raise config.field_error("beta_schedule", f"only {OF_EXP} has it", f"give one of {', '.join(KINDS)}")
        beta = min(-expm1(-DECAY / T), 0.999)
        spec = ScheduleSpec("linear", T, beta_start=beta, beta_end=beta)
    else:
        kind = KINDS[config["beta_schedule"]]
        uses = {} if kind == "cosine" else {"beta_start": config["beta_start"], "beta_end": config["beta_end"]}
        spec = ScheduleSpec(kind, T, zero_terminal_snr=zero, **uses)  # type: ignore[arg-type]
    return _check_spec(spec), prediction


def cogvideox(config: SchedulerConfig) -> Described:
    """Return the schedule whose signal-to-noise ratio is divided by `snr_shift_scale`, as a table of betas."""
    spec, prediction = table_schedule(config)
    scale = config["snr_shift_scale"]
    if not 1e-3 <= scale <= 1e3:
        raise config.field_error("snr_shift_scale", "the signal-to-noise ratio is divided by it", "give 0.001 .. 1000")
    if spec.kind == "scaled-linear":  # the class computes these in float64
        bars = np.cumprod(1 - paths.betas(spec))
    else:
        bars = tables.alpha_bars(replace(spec, zero_terminal_snr=False))
    bars = np.append(1.0, bars / (scale + (1 - scale) * bars))
    betas = tuple((1 - bars[1:] / bars[:-1]).tolist())
    shifted = ScheduleSpec("betas", len(betas), betas=betas, zero_terminal_snr=spec.zero_terminal_snr)
    return _check_spec(shifted), prediction


def edm(config: SchedulerConfig) -> Described:
    """Return the schedule and the prediction of EDM's preconditioned network, or, with v_prediction, of the same
    network with its sign reversed."""
    spec = ScheduleSpec(
        "edm", sigma_min=config["sigma_min"], sigma_max=config["sigma_max"], sigma_data=config["sigma_data"]
    )
    predictions: dict[str, Prediction] = {"epsilon": "edm", "v_prediction": "v"}
    if config["prediction_type"] not in predictions:
        raise config.field_error("prediction_type", "the class cannot precondition it", "set epsilon or v_prediction")
    return _check_spec(spec), predictions[config["prediction_type"]]


def cosine(config: SchedulerConfig) -> Described:
    """Return v on the trigonometric schedule, whose angle over pi / 2 is the network's time. This is EDM for data of
    standard deviation 1."""
    if config["prediction_type"] != "v_prediction":
        raise config.field_error("prediction_type", "the network's output has the other sign", "set v_prediction")
    if config["sigma_data"] != 1:
        raise config.field_error("sigma_data", "the schedule is for data of standard deviation 1", "set 1")
    _check_spec(ScheduleSpec("edm", sigma_min=config["sigma_min"], sigma_max=config["sigma_max"]))  # checks its grid
    return ScheduleSpec("trigonometric"), "v"


def consistency(config: SchedulerConfig) -> Described:
    """Return the schedule of a consistency model. The network's time is 250 log sigma."""
    low, high, data = (float(config[name]) for name in ("sigma_min", "sigma_max", "sigma_data"))
    spec = ScheduleSpec("edm", sigma_min=low, sigma_max=high, sigma_data=data, time_scale=1000.0)
    return _check_spec(spec), "consistency"


def flow(config: SchedulerConfig) -> Described:
    """Return the schedule of a flow and its velocity prediction."""
    return _check_spec(ScheduleSpec("flow", config["num_train_timesteps"])), "flow"


def scm(config: SchedulerConfig) -> Described:
    """Return the flow of SCMScheduler, whose network time is sigma. SanaSprintPipeline converts the class's angles and
    velocities to those of this flow."""
    if not config["sigma_data"] > 0:
        raise config.field_error("sigma_data", "it is a standard deviation", "give a number above 0")
    return ScheduleSpec("flow", 1), "flow"


def ipndm(config: SchedulerConfig) -> Described:
    """Return the schedule and the prediction of IPNDMScheduler: the trigonometric schedule, and v."""
    return ScheduleSpec("trigonometric"), "v"


def _check_spec(spec: ScheduleSpec) -> ScheduleSpec:
    """Return the spec. Raises UserError if it does not describe a schedule."""
    return NoiseSchedule(spec).spec
