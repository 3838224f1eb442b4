"""Every solver on every schedule, prediction and extreme parameter: finite numbers, or one line with the reason."""

import math
import warnings

import numpy as np
import pytest

from fewstep.literature.interpolant import BROWNIAN
from fewstep.literature.kinetic import kinetic_optimal
from fewstep.literature.usf import Decision, Expansion, usf
from fewstep.plans import solvers
from fewstep.plans.compile import compile_plan, trace_plan
from fewstep.plans.errors import UserError
from fewstep.plans.guidance import CfgPlusPlus
from fewstep.plans.names.call_syntax import parameters
from fewstep.plans.names.plan_name import SOLVERS
from fewstep.plans.paths import PATHS, RESTORING
from fewstep.plans.publication import facts_of
from fewstep.plans.schedule import CLEAN, NoiseSchedule
from fewstep.plans.spec import DenoiserFacts, ScheduleSpec
from fewstep.runtime.sampling.execute import execute
from tests.plans.execute_plan import sample, solver
from tests.plans.gaussian import FLOW, LINEAR
from tests.refusals import refuses

pytestmark = pytest.mark.slow

SPECS = [
    *(ScheduleSpec(kind) for kind in PATHS if kind not in ("betas", "table", "interpolant")),
    kinetic_optimal(np.ones_like),
    BROWNIAN,
    ScheduleSpec("betas", timesteps=4, betas=(0.01, 0.1, 0.3, 0.6)),
    ScheduleSpec("scaled-linear", zero_terminal_snr=True),
]
PREDICTIONS = {
    "flow": ("flow", "sample"),
    "edm": ("edm", "v", "consistency"),
    "exploding": ("edm", "epsilon"),
    "trigonometric": ("v", "sample"),
    "residual-shift": ("sample", "residual"),
    "rddm": ("residual",),
    "ou": ("score", "epsilon"),
    "bridge": ("sample", "residual"),
    "mean-reverting": ("epsilon", "residual"),
    "table": ("sample", "velocity"),
    "interpolant": ("sample", "residual", "velocity"),
}
DRAWS = list(np.random.default_rng(0).standard_normal((40, 3))).__getitem__
BRIDGE = DenoiserFacts(ScheduleSpec("bridge"), "sample", towards="y")
NOT_EXACT = {"edict", "score_sde_pc"}  # for any data, by their nature
UNDEFINED_ON_THE_BRIDGE = {"flow_ancestral", "heun"}  # 0 / 0 where there is neither x0 nor noise in x


def predictions(spec):
    return PREDICTIONS.get(spec.kind, ("v",) if spec.zero_terminal_snr else ("epsilon", "v"))


def is_finite(plan):
    rows = [row for step in plan.steps for row in (step.input, step.x0, *step.shaping_of, *step.update)]
    return all(math.isfinite(number) for row in (*rows, *plan.start, plan.output) for number in row)


def compile_or_refusal(name, denoiser, guidance=None):
    """Return the plan, or the line that refuses it."""
    try:
        with warnings.catch_warnings(action="error"):
            return compile_plan(name, denoiser, guidance)
    except UserError as error:
        assert "\n" not in str(error)
        return str(error)


@pytest.mark.parametrize("of", [slice(1), pytest.param(slice(1, None), marks=pytest.mark.slow)], ids=["one", "others"])
@pytest.mark.parametrize("name", SOLVERS.names())
def test_every_solver_on_every_schedule(name, of):
    """1, 2 and 4 steps, guided in turn by nothing, a weight and CFG++, with one prediction or all of them."""
    for spec, prediction in ((each, prediction) for each in SPECS for prediction in predictions(each)[of]):
        towards = "y" if spec.kind in RESTORING else None
        denoiser = DenoiserFacts(spec, prediction, heads=2 if name == "rddm" else 1, towards=towards)
        for steps, guidance in ((1, None), (2, 2.0), (4, CfgPlusPlus(0.6))):
            plan = compile_or_refusal(f"{name}:{steps}", denoiser, guidance)
            assert isinstance(plan, str) or is_finite(plan), denoiser


@pytest.mark.parametrize("name", [name for name in SOLVERS.names() if parameters(SOLVERS.find(name))])
def test_every_parameter_at_its_ends_and_beyond(name):
    found = SOLVERS.find(name)
    made_for = facts_of(found).made_for
    for parameter, each in parameters(found).items():
        ends = {
            bool: ("True", "False"),
            int: ("-1", "0", "1", "4", "5", "1000000"),
            float: ("-1", "0", "1e-12", "1", "2", "1e300"),
            tuple: ("[]", "[0, 0, 0, 0]", "[1e300, 1, 1, 1]", "[-1, 2, -1, 2]"),
        }.get(type(each.default), ("True", "False"))
        for end in ends:
            for denoiser in [made_for] if made_for else [DenoiserFacts(LINEAR, "epsilon"), DenoiserFacts(FLOW, "flow")]:
                plan = compile_or_refusal(f"{name}({parameter}={end}):4", denoiser)
                assert isinstance(plan, str) or is_finite(plan)


OUT_OF_RANGE = [
    "bdia(gamma=-0.1)",
    "bdia(gamma=1.5)",
    "ctm(gamma=-0.1)",
    "ddim(eta=1.5)",
    "dpm_2(eta=-1)",
    "dpmpp_2m_sde(eta=2)",
    "dpmpp_2s(eta=2)",
    "dpmpp_sde(eta=2)",
    "dpmpp_singlestep_2(eta=2)",
    "edm_euler(s_churn=-1)",
    "edm_heun(s_noise=-1)",
    "lcm(sigma_data=-1)",
    "lcm(timestep_scaling=-1)",
    "score_sde_pc(corrections=-1)",
    "score_sde_pc(corrections=101)",
    "score_sde_pc(snr=-1)",
    "tcd(gamma=1.1)",
]
SENSELESS = {
    "bdia_inverse(gamma=0)": "bdia_inverse cannot run with gamma 0",
    "dc_solver(order=5)": "dc_solver",
    "dc_solver(ratios=[1, 1])": "dc_solver",
    "edict(p=0)": "edict cannot run with p 0",
    "er_sde(order=0)": "er_sde has no order 0; choose order in 1 .. 3",
    "er_sde(order=4)": "er_sde has no order 4; choose order in 1 .. 3",
    "ghvb(beta=0)": "ghvb has beta",
    "ghvb(beta=1.2)": "ghvb has beta",
    "ghvb(order=5)": "ghvb has beta",
    "hb(beta=0)": "hb has beta",
    "hb(beta=1.2)": "hb has beta",
    "hb(order=5)": "hb has beta",
    "hb_dpmpp_2m(beta=0)": "hb_dpmpp_2m has beta",
    "hb_unipc(order=5)": "hb_unipc has beta",
    "nesterov(beta=0)": "nesterov has beta",
    "sa_solver(corrector=5)": "sa_solver has",
    "sa_solver(predictor=0)": "sa_solver has",
    "sa_solver(tau=-0.5)": "sa_solver has",
    "score_sde_pc(ratios=[1])": "1 ratios for 4 steps",
}


def out_of_range(call):
    parameter = call.partition("(")[2].partition("=")[0]
    return call, rf"{parameter}=.* is (negative|not in 0 \.\. (100|1);)"


@pytest.mark.parametrize(("call", "says"), [*SENSELESS.items(), *map(out_of_range, OUT_OF_RANGE)])
def test_parameters_that_make_no_sense_are_refused(call, says):
    with pytest.raises(UserError, match=says):
        compile_plan(f"{call}:4", DenoiserFacts(LINEAR, "epsilon"))


@pytest.mark.parametrize("steps", ["99,", "-1,", "0, 0.5"])
def test_unipc_leaves_only_steps_that_there_are_uncorrected(steps):
    with refuses((), "integers from 0 to 7"):
        compile_plan(f"unipc_3(uncorrected=({steps})):8", DenoiserFacts(LINEAR, "epsilon"))
    assert compile_plan("unipc_3(uncorrected=(0, 7)):8", DenoiserFacts(LINEAR, "epsilon")).steps


REDONE = usf([Decision(corrector=Expansion(order=2, start=2))] * 3 + [Decision()])


@pytest.mark.parametrize("name", ["dpmpp_2m", "unipc_1", "unipc_3", "dc_solver", "sa_solver(tau=0)", REDONE])
def test_correctors_keep_the_guidance_of_cfgpp(name):
    """If both branches' x0 stay constant, all steps on x0 are DDIM's, and CFG++ moves x at each."""
    schedule = NoiseSchedule(LINEAR)
    times = [schedule.time(t) for t in (900.0, 700.0, 500.0, 300.0, 100.0)]

    def made(own):
        plan = trace_plan("test", own, times, DenoiserFacts(LINEAR, "sample"), CfgPlusPlus(0.6))
        x0s = {"cond": np.full(3, 0.7), "uncond": np.full(3, -0.4)}
        return sample(plan, lambda i, step, u: [x0s[branch] for branch in step.branches], DRAWS, np.float64)

    assert made(solver(name) if isinstance(name, str) else name) == pytest.approx(made(solvers.ddim), abs=1e-9)


@pytest.mark.parametrize("name", ["dpm_2(eta=1e-9)", "ctm(gamma=1e-9)", "dpmpp_sde(eta=1e-9)"])
def test_hardly_any_noise_is_hardly_another_plan(name):
    """rho_t^2 - rho_down^2 rounds to either side of 0 there."""
    none = name.replace("1e-9", "0")
    mine, its = (compile_plan(f"{each}:6", DenoiserFacts(LINEAR, "epsilon")) for each in (name, none))
    for few, no in zip(mine.steps, its.steps, strict=True):
        for row, exact in zip(few.update, no.update, strict=True):
            assert row[: len(exact)] == pytest.approx(exact, abs=1e-6)
            assert row[len(exact) :] == pytest.approx([0.0] * (len(row) - len(exact)), abs=1e-6)


@pytest.mark.parametrize("name", [name for name in SOLVERS.names() if "inverse" not in name and name != "sgmse"])
def test_the_bridge_is_crossed_from_y_itself(name):
    """At its first time x is y: alpha = sigma = 0. Data that are one point are reached exactly."""
    if name in UNDEFINED_ON_THE_BRIDGE:
        with refuses(f"'{name}:4'"):
            compile_plan(f"{name}:4", BRIDGE)
        return
    if isinstance(compile_or_refusal(f"{name}:4", BRIDGE), str):
        assert name in {"lcm", "tcd", "rddm", "interpolant"}  # they say what else they need
        return
    for steps in (1, 2, 5):
        plan = compile_plan(f"{name}:{steps}", BRIDGE)
        first, *_ = execute(plan, lambda i, step, u: [np.full(3, 0.7)], DRAWS, np.float64, {"y": np.full(3, -0.6)})
        assert first.u == pytest.approx(np.full(3, -0.6), abs=1e-12)
        made = sample(plan, lambda i, step, u: [np.full(3, 0.7)], DRAWS, np.float64, {"y": np.full(3, -0.6)})
        if name not in NOT_EXACT:
            assert made == pytest.approx(np.full(3, 0.7), abs=1e-9)


def test_a_grid_that_does_not_end_clean_gives_x_and_not_x_without_y():
    """x_t = alpha x0 + (1 - alpha) y + sigma eps, for data that is one point."""
    schedule, y, point, z = NoiseSchedule(ScheduleSpec("rddm")), -0.6, 0.7, 1.3
    times = [schedule.time(t) for t in (999.0, 500.0, 100.0)]
    denoiser = DenoiserFacts(schedule.spec, "sample", towards="y")
    for end, ends in ((times[-1], times), (CLEAN, [*times, CLEAN])):
        plan = trace_plan("test", solvers.ddim, ends, denoiser)
        made = sample(plan, lambda i, step, u: [np.full(1, point)], lambda k: np.full(1, z), np.float64, {"y": [y]})
        assert made == pytest.approx([end.alpha * point + (1 - end.alpha) * y + end.sigma * z], abs=1e-12)


@pytest.mark.parametrize("name", ["bdia_inverse", "ddim_inverse", "edict_inverse"])
def test_what_starts_from_a_sample_does_not_invert_a_restoration(name):
    with refuses("the denoiser restores 'y'"):
        compile_plan(f"{name}:4", DenoiserFacts(ScheduleSpec("ou"), "score", towards="y"))


def test_a_run_up_to_pure_noise_has_no_edict_inverse():
    with pytest.raises(UserError, match="up to pure noise"):
        compile_plan("edict_inverse:4", DenoiserFacts(FLOW, "flow"))
