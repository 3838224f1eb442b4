"""Scheduler configs at the edges: long cosine tables, thresholds below 1, dynamic shifts, timesteps cut and rounded."""

import contextlib

import numpy as np
import pytest

from fewstep.plans.configs import tables
from fewstep.plans.configs.classes import CLASSES, schedule_from_scheduler_config
from fewstep.plans.configs.config import SchedulerConfig, resolve
from fewstep.plans.configs.diffusers import RECIPES, plan_from_scheduler_config
from fewstep.plans.configs.recipe import ScheduleRequest
from fewstep.plans.errors import UserError
from tests.plans.parity.config_parity import compare, lacks_scipy, make_scheduler
from tests.plans.parity.sampler_tables import extract, run_plan, torch
from tests.refusals import refuses

pytestmark = pytest.mark.slow

diffusers = pytest.importorskip("diffusers")

DOWN = [name for name in sorted(CLASSES) if "Inverse" not in name]
OF_TABLES = [name for name in DOWN if {"use_karras_sigmas", "beta_schedule"} <= set(CLASSES[name].defaults)]
GRIDS = ["use_karras_sigmas", "use_exponential_sigmas", "use_beta_sigmas", "use_lu_lambdas"]


def times_of_steps(config: SchedulerConfig, steps: int) -> list[float]:
    """Return the network's time of each step."""
    spec, _ = CLASSES[config.scheduler].schedule(config)
    return [time.network for time in RECIPES[config.scheduler](config, ScheduleRequest(steps), spec).times[:-1]]


STABLE_DIFFUSION = {"beta_schedule": "scaled_linear", "beta_start": 0.00085, "beta_end": 0.012}
ZERO_SNR = {"rescale_betas_zero_snr": True, "prediction_type": "v_prediction", "beta_schedule": "scaled_linear"}
PNDM = {**STABLE_DIFFUSION, "skip_prk_steps": True, "steps_offset": 1}
DYNAMIC = {"use_flow_sigmas": True, "prediction_type": "flow_prediction", "use_dynamic_shifting": True}
# Cosine tables of 1000 timesteps end at alpha_bar 2.4e-9, below the 2^-24 that stands for 0 where a table is rescaled
LONG = [
    (name, {"beta_schedule": "squaredcos_cap_v2", **({grid: True} if grid else {})}, 8)
    for name in [*OF_TABLES, "EulerAncestralDiscreteScheduler"]
    for grid in (None, *GRIDS)
    if grid is None or grid in CLASSES[name].defaults
]
# diffusers clamps the quantile to 1 .. sample_max_value, in this order
THRESHOLDS = [
    (
        name,
        {"thresholding": True, "sample_max_value": most, "dynamic_thresholding_ratio": 0.9, "num_train_timesteps": 100},
    )
    for name in CLASSES
    if "thresholding" in CLASSES[name].defaults
    for most in (0.5, 1.0, 1.5)
]
EDM_IN_ONE_STEP = [
    (name, {"sigma_schedule": grid, "final_sigmas_type": final}, 1)
    for name in ("EDMEulerScheduler", "EDMDPMSolverMultistepScheduler")
    for grid in ("karras", "exponential")
    for final in ("zero", "sigma_min")
]
LATER = [
    ("CogVideoXDDIMScheduler", {"timestep_spacing": "trailing", **ZERO_SNR}),
    ("CogVideoXDPMScheduler", {"timestep_spacing": "trailing", **ZERO_SNR}),
    ("CosineDPMSolverMultistepScheduler", {}),
    ("DDIMInverseScheduler", {"clip_sample": False}),
    ("DPMSolverMultistepInverseScheduler", {}),
    ("FlowMatchLCMScheduler", {"shift": 3.0}),
    ("LTXEulerAncestralRFScheduler", {"eta": 0.5}),
]
ENDS = [  # a class reads these fields of its config, even if it does not have them as arguments
    (name, {field: True, "sigma_min": 0.1, "sigma_max": 0.9 if name.startswith(("Flow", "LTX")) else 5.0}, 5)
    for name in DOWN
    for field in GRIDS[:3]
    if {field, "sigma_min"} <= set(CLASSES[name].defaults)
]
MULTISTEP = ("DPMSolverMultistepScheduler", "DPMSolverSinglestepScheduler", "DEISMultistepScheduler")
UNIPC = "UniPCMultistepScheduler"
EDGES = [
    *(pytest.param(*case, marks=[pytest.mark.slow] * (place % 3 != 0)) for place, case in enumerate(ENDS)),
    *(pytest.param(*case, marks=pytest.mark.slow) for case in LONG),
    *((*case, 5) for case in THRESHOLDS),
    *EDM_IN_ONE_STEP,
    *((*case, steps) for case in LATER for steps in (1, 2, 5)),
    ("DPMSolverMultistepScheduler", {"timestep_spacing": "trailing"}, 12),
    # with more than half as many steps as timesteps the stride is 1, and the offset keeps it above 0
    ("PNDMScheduler", {**PNDM, "num_train_timesteps": 100}, 58),
    *(("PNDMScheduler", {**PNDM, "prediction_type": kind}, 1) for kind in ("epsilon", "v_prediction")),
    # UniPC shifts by mu or its exponential, the others by the exponential or by flow_shift
    *(
        (UNIPC, {**DYNAMIC, "time_shift_type": kind, "arguments": {"mu": mu}, "shift_terminal": terminal}, steps)
        for kind in ("exponential", "linear")
        for mu in (0.3, 0.8, 1.7)
        for terminal, steps in ((None, 4), (0.1, 7))
    ),
    *((name, {**DYNAMIC, "flow_shift": 3.0, "arguments": each}, 5) for name in MULTISTEP for each in ({"mu": 0.8}, {})),
    # on noise it thresholds nothing
    (UNIPC, {"thresholding": True, "predict_x0": False, "solver_order": 1, "final_sigmas_type": "sigma_min"}, 5),
]


@pytest.mark.parametrize(("name", "config", "steps"), EDGES, ids=lambda value: str(value)[:150])
def test_rows_and_samples_are_those_of_the_scheduler(name, config, steps):
    compare(name, config, steps)


@pytest.mark.parametrize(
    ("name", "config", "why"),
    [
        (
            UNIPC,
            {"solver_order": 3, "lower_order_final": False, "final_sigmas_type": "sigma_min", "use_beta_sigmas": True},
            "no solution; set lower_order_final",
        ),
        ("DPMSolverMultistepScheduler", {"algorithm_type": "data_prediction"}, "the class does not support this value"),
        (
            "DPMSolverSinglestepScheduler",
            {"algorithm_type": "sde-dpmsolver", "final_sigmas_type": "sigma_min"},
            "the class does not support this value",
        ),
        ("DEISMultistepScheduler", {"algorithm_type": "sde-dpmsolver++"}, "the class does not support this value"),
        (UNIPC, {"shift_terminal": 0.1}, "only flows have it"),
    ],
)
def test_what_has_no_method_is_refused(name, config, why):
    assert not runs(name, config)
    with pytest.raises(UserError, match=why):
        plan_from_scheduler_config({"_class_name": name, **config}, steps=6)


@pytest.mark.parametrize("field", GRIDS[:3])
def test_the_sigma_of_a_flow_is_at_most_1(field):
    """diffusers passes timesteps beyond the training's to its network."""
    config = {"_class_name": "FlowMatchEulerDiscreteScheduler", field: True, "sigma_max": 5.0}
    with refuses("sigma_max 5.0", "correct sigma_max"):
        plan_from_scheduler_config(config, steps=4)


@pytest.mark.parametrize(
    ("name", "config"),
    [
        ("DDIMScheduler", {"beta_schedule": "sigmoid"}),
        (UNIPC, {"solver_type": "bh1"}),
        (UNIPC, {"predict_x0": False}),
        ("EDMDPMSolverMultistepScheduler", {"solver_order": 3, "algorithm_type": "sde-dpmsolver++"}),
        ("DPMSolverMultistepScheduler", {"algorithm_type": "deis"}),
        (
            "DPMSolverSinglestepScheduler",
            {"algorithm_type": "dpmsolver", "final_sigmas_type": "sigma_min", "thresholding": True},
        ),
    ],
)
def test_what_diffusers_alone_cannot_run_has_the_plan_of_its_method(name, config):
    assert not runs(name, config)
    plan = plan_from_scheduler_config({"_class_name": name, **config}, steps=6)
    assert np.isfinite(run_plan(plan, lambda u, time: np.tanh(u), np.ones((80, 3)))).all()


def runs(name, config):
    """Return whether diffusers gives a finite sample. Otherwise it raises many kinds of errors."""
    with contextlib.suppress(NotImplementedError, UnboundLocalError, RuntimeError, ValueError):
        scheduler, _ = make_scheduler(name, config)
        return np.isfinite(extract(scheduler, 6).sample).all()
    return False


CUT = [name for name in DOWN if "use_flow_sigmas" in CLASSES[name].defaults]
FLOWS = [{"use_flow_sigmas": True, "prediction_type": "flow_prediction", "flow_shift": shift} for shift in (1.0, 3.0)]


@pytest.mark.parametrize("name", CUT)
def test_told_times_are_cut_as_diffusers_cuts_them(name):
    """Grids begin at a timestep, and even flows have many: rounding decides which integer such a time becomes."""
    known = CLASSES[name].defaults
    grids = [{**betas, grid: True} for grid in GRIDS if grid in known for betas in ({}, STABLE_DIFFUSION)]
    for config in (each for each in (*grids, *FLOWS) if not lacks_scipy(name, each)):
        scheduler, written = make_scheduler(name, config)
        read = resolve("test", written, name, known)
        for steps in (3, 5, 6, 9, 15, 27, 40):
            scheduler.set_timesteps(steps)
            ours = times_of_steps(read, steps)
            assert ours == scheduler.timesteps.tolist(), (config, steps)


@pytest.mark.parametrize("T", [20, 500, 1000])
@pytest.mark.parametrize("kind", ["linear", "scaled_linear", "squaredcos_cap_v2"])
def test_tables_are_those_of_a_processor_with_a_fused_multiply_add(kind, T):
    if torch.backends.cpu.get_cpu_capability() not in ("AVX2", "AVX512"):
        pytest.skip("torch rounds a table otherwise here")
    bars = diffusers.DDPMScheduler(num_train_timesteps=T, beta_schedule=kind).alphas_cumprod.numpy()
    spec = schedule_from_scheduler_config(
        {"_class_name": "DDPMScheduler", "num_train_timesteps": T, "beta_schedule": kind}
    )
    assert np.array_equal(tables.alpha_bars(spec[0]).astype(np.float32), bars)


SPACED = [name for name in DOWN if "timestep_spacing" in CLASSES[name].defaults]
DISTILLED = ("LCMScheduler", "TCDScheduler")  # they have timesteps of their own
TOO_MANY = {1000: (61, 103, 121, 122), 250: (61, 103, 121, 122), 100: (29, 31, 58, 62, 97)}  # steps
HALVES = {1000: (48, 96, 112), 250: (12, 24, 28, 36), 100: (24, 48)}


@pytest.mark.parametrize("T", [pytest.param(T, marks=[pytest.mark.slow] * (T == 250)) for T in HALVES])
@pytest.mark.parametrize(
    "name", [name for name in SPACED if not name.startswith(("PNDM", "DPMSolverSingle", *DISTILLED))]
)
def test_trailing_timesteps_are_rounded_as_numpy_rounds_them(name, T):
    counts = [*range(2, 125), *HALVES[T]] if name == "DDIMScheduler" else HALVES[T]
    scheduler, written = make_scheduler(name, {"num_train_timesteps": T, "timestep_spacing": "trailing"})
    read = resolve("test", written, name, CLASSES[name].defaults)
    for steps in [count for count in counts if count <= T and count not in TOO_MANY[T]]:
        ours = times_of_steps(read, steps)
        scheduler.set_timesteps(steps)
        theirs = scheduler.timesteps[:: scheduler.order].tolist()  # those of order 2 get others in between
        assert ours == theirs, steps


def test_a_trailing_timestep_of_minus_one_is_left_out():
    """numpy's arange adds its stride slightly beyond its end, so diffusers takes one value too many."""
    for T, counts in TOO_MANY.items():
        scheduler = diffusers.DDIMScheduler(num_train_timesteps=T, timestep_spacing="trailing")
        for steps in counts:
            scheduler.set_timesteps(steps)
            theirs = scheduler.timesteps.tolist()
            assert len(theirs) == steps + 1 and theirs[-1] == -1
            plan = plan_from_scheduler_config({**scheduler.config, "_class_name": "DDIMScheduler"}, steps=steps)
            assert [step.time for step in plan.steps] == theirs[:-1]


@pytest.mark.parametrize("name", ["DPMSolverMultistep", "DPMSolverSinglestep", "DPMSolverMultistepInverse", "SASolver"])
def test_timesteps_may_be_fewer_than_trained_betas_but_not_more(name):
    """diffusers spaces timesteps by their number in the config, and interpolates in the table of betas."""
    fields = {"trained_betas": np.linspace(1e-4, 0.02, 100).tolist()}
    compare(f"{name}Scheduler", {"num_train_timesteps": 50, **fields}, 4, rows_alone=True)
    with refuses(("num_train_timesteps 200", "beyond the table of 100 betas"), ("set 100",)):
        plan_from_scheduler_config({"_class_name": f"{name}Scheduler", "num_train_timesteps": 200, **fields}, steps=4)
