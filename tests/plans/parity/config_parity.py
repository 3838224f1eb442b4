"""Compare a scheduler config's plan with the scheduler itself: the same refusal, or the same rows and samples."""

import inspect
import logging
from importlib import import_module
from importlib.util import find_spec

import numpy as np
import pytest

from fewstep.plans.configs import tables
from fewstep.plans.configs.diffusers import plan_from_scheduler_config
from tests.plans.parity.sampler_tables import assert_same_rows, assert_same_trajectory, extract, run_plan, torch, unroll

diffusers = pytest.importorskip("diffusers")
logging.getLogger("diffusers").setLevel(logging.ERROR)

NEEDS_TORCHSDE = {
    "CosineDPMSolverMultistepScheduler": "scheduling_cosine_dpmsolver_multistep",
    "DPMSolverSDEScheduler": "scheduling_dpmsolver_sde",
}
LMS_TOLERANCE = 1e-4  # diffusers integrates its coefficients numerically, to that


def refusal_of(name, config, steps):
    """Return the reason why no plan has this table, for the combinations that `plan_from_scheduler_config` refuses."""
    get = config.get
    order, stride = get("solver_order", 2), get("num_train_timesteps", 1000) // steps
    on_noise = get("algorithm_type") in ("dpmsolver", "sde-dpmsolver")
    zero = get("final_sigmas_type", "zero") == "zero"
    if "Inverse" in name:
        return "its first order is DDIM's" if order == 1 else None
    if name.startswith("DPMSolver") and on_noise and zero:
        return "diverges"  # in diffusers too: its constructor says so
    if name == "DPMSolverMultistepScheduler" and order == 3:
        lowered = get("lower_order_final", True) and steps < 15
        if get("algorithm_type") == "sde-dpmsolver":
            return "does not have this order"
        if get("euler_at_final") and not lowered and not zero:
            return "only the last"
    if name == "UniPCMultistepScheduler" and not get("lower_order_final", True) and zero and order > 1:
        return "the step to sigma 0 diverges"
    if name == "UniPCMultistepScheduler" and get("use_flow_sigmas") and not get("predict_x0", True):
        return "a velocity is not a noise prediction"
    if get("use_flow_sigmas"):
        if get("use_lu_lambdas") or any(get(f"use_{kind}_sigmas") for kind in ("karras", "exponential", "beta")):
            return "mixes two schedules"
        if name.startswith("DPMSolver") and not zero:
            return "no smallest sigma"
        if name == "DPMSolverMultistepScheduler" and on_noise:
            return "diverges"
    own = get("use_flow_sigmas") or any(get(f"use_{kind}_sigmas") for kind in ("karras", "exponential", "beta"))
    if name == "UniPCMultistepScheduler" and own and not zero and not get("lower_order_final", True) and order > 2:
        return "no solution"
    if name == "PNDMScheduler" and not get("skip_prk_steps") and (steps < 4 or stride % 2):
        return "halfway"
    return None


def broken(name, config, steps):
    """Return the reason why diffusers 0.42 may give no sample for a combination that has a plan, or None."""
    get = config.get
    zero = get("final_sigmas_type", "zero") == "zero" and "Inverse" not in name
    lowered = get("lower_order_final", True) and (steps < 15 or name == "UniPCMultistepScheduler")
    if name.endswith(("DPMSolverMultistepScheduler", "InverseScheduler", "UniPCMultistepScheduler")) and not (
        zero or lowered
    ):
        return "0 / 0 in the last step, which goes from sigma_min to sigma_min"  # with some grids and solver types
    if name == "UniPCMultistepScheduler" and zero and (get("solver_type") == "bh1" or not get("predict_x0", True)):
        return "B(h), or the noise, is not finite at sigma 0"
    if name.startswith("EDM") and get("algorithm_type") == "sde-dpmsolver++" and get("solver_order") == 3:
        return "the class has no such step of the SDE"
    return None


def rounds_to_noise(name, config):
    """SDE samplers that end with a step of length zero, at sigma_min or timestep 0: float32 makes it slightly
    positive or negative, and its noise is the root of that length.
    """
    if name == "CogVideoXDPMScheduler":
        return not config.get("set_alpha_to_one", True) and config.get("timestep_spacing") != "trailing"
    grids = ("use_karras_sigmas", "use_exponential_sigmas", "use_beta_sigmas", "use_lu_lambdas")
    is_stochastic = str(config.get("algorithm_type")).startswith("sde-") or name.startswith("Cosine")
    reaches_it = name.startswith(("EDM", "Cosine")) or any(config.get(grid) for grid in grids)
    return is_stochastic and reaches_it and config.get("final_sigmas_type") == "sigma_min"


def make_scheduler(name, config):
    """The scheduler, with its float32 table and square root in place of fewstep's, since torch's differ by
    processor.
    """
    if lacks_scipy(name, config):
        pytest.skip("diffusers needs scipy for it")
    if name in NEEDS_TORCHSDE:
        form = getattr(import_module(f"diffusers.schedulers.{NEEDS_TORCHSDE[name]}"), name)
    else:
        form = getattr(diffusers, name)
    has_all = set(config) <= set(inspect.signature(form).parameters)
    scheduler = form(**config) if has_all else form.from_config(config)  # which keeps other fields
    bars = getattr(scheduler, "alphas_cumprod", None)
    if bars is not None and not name.startswith("Cog"):
        single = bars.numpy().copy()
        if config.get("rescale_betas_zero_snr") and not name.startswith(("DDIM", "DDPM", "LCM")):
            single[-1] = 0.0  # these classes put 2^-24 there themselves
        tables.alpha_bars = lambda spec: single.astype(np.float64)
        tables._root = lambda values: (torch.from_numpy(values) ** 0.5).numpy()
    return scheduler, {**scheduler.config, "_class_name": name}


def is_linear(config):
    return not (config.get("thresholding") or config.get("clip_sample") or config.get("clip_denoised"))


def lacks_scipy(name, config):
    """Return True if diffusers needs scipy, which is not installed."""
    asks = name == "LMSDiscreteScheduler" or config.get("use_beta_sigmas")
    return asks and find_spec("scipy") is None


def compare(name, config, steps, rows_alone=False):
    """Assert that the plan is refused if it should be. Otherwise its rows are the scheduler's, if nothing is
    clipped, and so are its samples on nonlinear denoisers.
    """
    config = dict(config)
    arguments = config.pop("arguments", {})
    if reason := refusal_of(name, config, steps):
        written = {"_class_name": name, **config}
        with pytest.raises(Exception, match=reason):
            plan_from_scheduler_config(written, steps=steps, arguments=arguments)
        return
    scheduler, written = make_scheduler(name, config)
    plan = plan_from_scheduler_config(written, steps=steps, arguments=arguments)
    assert np.isfinite(run_plan(plan, lambda u, time: np.tanh(u), np.ones((80, 3)))).all()
    if broken(name, config, steps) and not gives_a_sample(scheduler, steps, arguments):
        return
    if rounds_to_noise(name, config):
        return
    if is_linear(written):
        tolerance = {"tolerance": LMS_TOLERANCE} if name == "LMSDiscreteScheduler" else {}
        assert_same_rows(unroll(plan), extract(scheduler, steps, **arguments), **tolerance)
    if not rows_alone:
        assert_same_trajectory(plan, scheduler, steps, **arguments)


def gives_a_sample(scheduler, steps, arguments):
    try:
        return np.isfinite(extract(scheduler, steps, **arguments).sample).all()
    except (UnboundLocalError, IndexError):
        return False
