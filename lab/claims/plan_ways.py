"""Claims about systems that are a single plan: solvers, guidance, changed networks and restoration."""

from dataclasses import replace
from functools import cache, lru_cache
from pathlib import Path
from typing import Any

import numpy as np

from fewstep.literature.time_shift import estimate_shift, shift_times
from fewstep.measure.rollouts.metrics import Floats
from fewstep.plans.compile import trace_plan
from fewstep.plans.configs.recipe import invert_solver
from fewstep.plans.guidance import CfgPlusPlus, Pag
from fewstep.plans.plan import Plan
from fewstep.plans.schedule import NoiseSchedule
from fewstep.plans.solvers.dpmpp_2m import dpmpp_2m
from fewstep.plans.transforms import tail, use_given_noise
from fewstep.plans.transforms.start_checks import noise_levels
from fewstep.runtime import Sampler
from fewstep.runtime.sampling.request import denoiser_facts
from lab.claims import scores
from lab.claims.claim import (
    CLEAN,
    FD,
    GUIDED,
    SHARPENED,
    SOUND,
    SPOKEN,
    Claim,
    Way,
    alike,
    alike_in_many_steps,
    claims,
    near,
    nearest,
    plan,
    step_pair,
)
from lab.claims.settings import APART, Setting, W, export_source, sampler_of

PAG = {"fashion_mnist": (5, 1.0), "cifar10": (8, 0.25)}  # steps, and the scale by FD of 0.25 to 2 on 128 other seeds
# The weight of two branches, by FD of `dpmpp_2m` in these steps. On fashion_mnist the least FD is at 1, one branch
TWO_BRANCHES = {"fashion_mnist": 1.25, "cifar10": 1.5}
# Steps of `ddim`, the authors' solver, with the weight of CFG++ by FD, on 128 other seeds; then that of guidance
CFG_PLUS_PLUS = {10: 1.1, 30: 0.5}
BESIDE_CFG_PLUS_PLUS = 2.0
SKIPS = {"fashion_mnist": 0.9}  # of the innermost skip, rising to 1: the best of 0.9 to 1.2 by FD on 64 such seeds
SHIFTS = {"unet_epsilon_linear": (20.0, 200.0), "convnext_v_cosine": (80.0, 400.0)}  # window, cutoff: best of six
PLAIN = ("unet_epsilon_linear", "convnext_v_cosine")
LONGER = (50, 100)  # steps of DDIM under guidance, as many as the authors name and half as many
LONG = (("ddim", 250), ("ddim", 1000))  # the authors compare 50 steps with 1000 of DDIM
# By PSNR to the teacher on seeds from 20 000 on: of seven solvers on the default grid, and of 20 on four grids
BEST_PLAIN = {
    "convnext_v_cosine": {20: "deis_log_rho_3:20", 50: "dpm_3m:50"},
    "unet_epsilon_linear": {20: "unipc_2:20", 50: "unipc_3:50"},
}
BEST_STRONG = {"convnext_v_cosine": "deis_log_rho_2:8@arctan", "dit_flow": "unipc_1:8@ays_svd"}  # at guidance 7.5
DAMPED = ("ddim", "ipndm", "dpmpp_2m")  # controls of momentum
PLMS = "ghvb(beta=1)"  # PLMS of order 2, that of `ghvb`, `hb` and `nesterov` by default; `ipndm` has order 4
FIVE, RESSHIFT = step_pair("dpmpp_2m:5", "dpmpp_2m:15", 1.0), step_pair("resshift:4", "resshift:15")
SGMSE = step_pair("sgmse:10@linspace", "sgmse:30@linspace")  # the published number of steps and a third of it
MRS = {"MRS": "dpmpp_2m(midpoint=False)", "MRS of the SDE": "dpmpp_2m_sde(midpoint=False)"}  # order 2 on predicted data
# Of 19 plans of 6 evaluations on 96 seeds from 20 000 on, the two of the largest SI-SDR along which it does not fall:
# MRS's for the SDE, and another form of it. It falls along `dpmpp_2m_sde`, `ddpm`, `er_sde` and each one for the ODE
OF_SGMSE, SECOND = MRS["MRS of the SDE"] + ":6", "dpmpp_2m_sde:6@linspace"
BEST_OF_SGMSE = step_pair(OF_SGMSE, MRS["MRS of the SDE"] + ":30")
SECOND_OF_SGMSE = step_pair(SECOND, "dpmpp_2m_sde:30@linspace")


def tune_skips(s: Setting) -> Floats:
    """Return samples with scaled skip connections, in the steps for which the scale was chosen."""
    return replace(s, sampler=edit_source(s.source, change=f"skip_tuning:{SKIPS[model(s)]},1")).sample("dpmpp_2m:5")


@cache
def perturb(plan: str) -> Way:
    """Return the way of PAG along a plan."""

    def way(s: Setting) -> Floats:
        changed = replace(s, sampler=edit_source(s.source, change="pag"))
        return changed.sample(plan, guidance=Pag(PAG[model(s)][1]))

    return way


@cache
def plus_plus(steps: int) -> Way:
    """Return the way of CFG++ along `ddim`, with the weight that was chosen for these steps."""
    return plan(f"ddim:{steps}", CfgPlusPlus(CFG_PLUS_PLUS[steps]))


SHIFTED: dict[tuple[Any, ...], Plan] = {}  # plans of earlier calls


def sample_shifted(s: Setting, name: str) -> Floats:
    """Return samples of a plan with times that fit the variance of x, estimated on separate seeds."""
    key = model(s), name, *SHIFTS[model(s)]
    if key not in SHIFTED:
        plan, schedule = s.sampler.compile(name, 1.0), NoiseSchedule(s.sampler.bundle.manifest.schedule)
        seen = s.sampler.steps(plan, APART, {s.condition: [seed % 10 for seed in APART]})
        variances = [float(state.u.reshape(len(APART), -1).var(1, ddof=1).mean()) for state in seen]
        SHIFTED[key] = shift_times(plan, estimate_shift(plan, schedule, variances, *SHIFTS[model(s)]))
    return s.sample(SHIFTED[key])


@lru_cache
def edit_source(source: str, change: str) -> Sampler:
    """Return a sampler of a source's network, exported with a change."""
    return sampler_of(export_source(source, change=change))


def model(s: Setting) -> str:
    """Return the name of the model."""
    return Path(s.source).name.partition(".")[0]


def there_and_back(s: Setting, steps: int) -> Floats:
    """Invert the image by BDIA. The inversion starts from the image and from the state before it, computed by DDIM.
    Return the image sampled again from the noise."""
    plan, inverse = s.sampler.compile(f"bdia:{steps}", 1.0), s.sampler.compile(f"ddim_inverse:{steps}", 1.0)
    first = next(iter(s.sampler.steps(inverse, s.seeds, s.others, given={"x": s.picture}))).after[0]
    both = {"x": s.picture, "x_before": first}
    sigma = plan.steps[0].sigma
    assert sigma is not None
    noise = s.sampler.sample(f"bdia_inverse:{steps}", s.seeds, s.others, given=both) / sigma
    return np.asarray(s.sampler.sample(use_given_noise(plan), s.seeds, s.others, given={"noise": noise}))


def ddim_and_back(s: Setting, evaluations: int) -> Floats:
    steps = max(evaluations // 2, 2)
    noise = s.sampler.sample(f"ddim_inverse:{steps}", s.seeds, s.others, given={"x": s.picture})
    forward = tail(s.sampler.compile(f"ddim:{steps}", 1.0), 0)
    return np.asarray(s.sampler.sample(forward, s.seeds, s.others, given={"row0": noise}))


def second_order_and_back(s: Setting, evaluations: int) -> Floats:
    """Invert the image by `dpmpp_2m` towards noise, after one step by DDIM, and sample it again by `dpmpp_2m`. The grid
    has no pure noise, to which no step of this solver leads."""
    steps = max(evaluations // 2, 2)
    plan, inverse = (s.sampler.compile(f"{solver}:{steps}@ays_svd", 1.0) for solver in ("dpmpp_2m", "ddim_inverse"))
    first = next(iter(s.sampler.steps(inverse, s.seeds, s.others, given={"x": s.picture}))).after[0]
    facts, times = denoiser_facts(s.sampler.bundle.manifest), noise_levels(plan)
    back = trace_plan("dpmpp_2m towards noise", invert_solver(dpmpp_2m), times, facts)
    noise = s.sampler.sample(back, s.seeds, s.others, given={"x": first}) / times[0].sigma
    return np.asarray(s.sampler.sample(use_given_noise(plan), s.seeds, s.others, given={"noise": noise}))


CLAIMS = [
    Claim("BDIA", "a picture comes back from its noise", "ddim_inverse and ddim", "PSNR of the source", 40,
          lambda s: there_and_back(s, 20), ddim_and_back, scores.psnr_of_return, GUIDED),
    Claim("BDIA", "a picture comes back from its noise", "dpmpp_2m to noise and back", "PSNR of the source", 40,
          lambda s: there_and_back(s, 20), second_order_and_back, scores.psnr_of_return, GUIDED, has_longer=False),
    *[claim for name, (steps, _) in PAG.items() for weight in (TWO_BRANCHES[name],)
      for few, twice, many, most in (tuple(f"dpmpp_2m:{times * steps}" for times in (1, 2, 3, 6)),)
      for claim in claims(
          "PAG", "guidance without a null condition", 2 * steps, perturb(few), (name,), {
              "twice the steps": (2 * steps, plan(twice, 1.0)),
              "guidance by two branches": (2 * steps, plan(few, weight)),
              "one row in half the evaluations": (steps, plan(few, 1.0))},
          own_steps=replace(step_pair(few, many), of_few=perturb(few), of_many=perturb(many), how="with PAG"),
          steps={"twice the steps": step_pair(twice, most, 1.0),
                 "guidance by two branches": step_pair(few, many, weight),
                 "one row in half the evaluations": step_pair(few, many, 1.0)})],
    *claims("CFG++", "guidance that stays near the data", 20, plus_plus(10), ("cifar10",), {
        "guidance of the best weight": (20, plan("ddim:10", BESIDE_CFG_PLUS_PLUS)),
        "one row in half the evaluations": (10, plan("ddim:10", 1.0))},
        own_steps=replace(step_pair("ddim:10", "ddim:30"), of_few=plus_plus(10), of_many=plus_plus(30),
                          how="with CFG++"),
        steps={"guidance of the best weight": step_pair("ddim:10", "ddim:30", BESIDE_CFG_PLUS_PLUS),
               "one row in half the evaluations": step_pair("ddim:10", "ddim:30", 1.0)}),
    *claims("Skip-Tuning", "nearer to the data in few steps", 5, tune_skips, tuple(SKIPS),
            {"no scale": (5, plan("dpmpp_2m:5", 1.0)), "unipc_2": (5, plan("unipc_2:5", 1.0))},
            own_steps=replace(FIVE, of_few=tune_skips, how="with scaled skips in few steps"),
            steps={"no scale": FIVE, "unipc_2": step_pair("unipc_2:5", "unipc_2:15", 1.0)}),
    *claims("Time-Shift Sampler", "nearer to many steps, without training", 10,
            lambda s: sample_shifted(s, "ddim:10"), PLAIN,
            {"the same plan": (10, plan("ddim:10")), "dpmpp_2m": (10, plan("dpmpp_2m:10"))}, (near(None),)),
    *[claim for system, ours, rivals in (
          ("GHVB", "ghvb", (*DAMPED, PLMS)), ("HB", "hb", (*DAMPED, PLMS)),
          ("HB on DPM-Solver++", "hb_dpmpp_2m", DAMPED), ("HB on UniPC", "hb_unipc", (*DAMPED, "unipc_2")),
          ("Nesterov", "nesterov", (*DAMPED, "hb", PLMS)),
          *((f"{system} of order 4", f"{system.lower()}(order=4)", ("ipndm", PLMS))
            for system in ("GHVB", "HB", "Nesterov")))
      for models, controls in (
          (GUIDED, {theirs: f"{theirs}:8" for theirs in rivals}),
          *(((name,), {"the best plan": best}) for name, best in BEST_STRONG.items()))
      for claim in claims(system, "less divergence at guidance 7.5", 16, plan(f"{ours}:8", 7.5), models,
                          {control: (16, plan(theirs, 7.5)) for control, theirs in controls.items()}, (near(7.5),))],
    *[claim for system, words, steps, ours, rivals in (
          ("DPM-Solver++", "15 to 20 steps of guided models", 20, "dpmpp_2m", ("ddim", "unipc_2", "deis_log_rho_3")),
          ("singlestep DPM-Solver", "high order in about 10 steps", 10, "dpm_singlestep_2", ("ddim", "deis_log_rho_3")),
          ("DEIS", "high order in few steps", 10, "deis_log_rho_3", ("ddim", "unipc_2", "dpm_2m", "dpm_3m")))
      for claim in claims(system, words, 2 * steps, nearest(ours, steps), GUIDED,
                          {theirs: (2 * steps, nearest(theirs, steps)) for theirs in rivals}
                          | {f"ddim in {many} steps": (2 * many, nearest("ddim", many)) for many in LONGER},
                          (near(),))],
    *claims("DPM-Solver++", "15 to 20 steps of guided models", 40, plan("dpmpp_2m:20@arctan", W), GUIDED,
            {"ddim in 100 steps": (200, plan("ddim:100@arctan", W))}, (alike_in_many_steps(W),)),
    *claims("PNDM", "nearer to many steps than DDIM", 50, plan("s_pndm:49"), PLAIN,
            {"ddim at 1000": (1000, plan("ddim:1000"))}, (alike_in_many_steps(None),)),
    *[claim for system, count, ours, more in (
          ("PNDM", 20, "s_pndm:19", ()), ("PNDM of order 4", 20, "f_pndm:11", ()),
          ("PNDM", 50, "s_pndm:49", LONG), ("PNDM of order 4", 50, "f_pndm:41", LONG))
      for models, controls in (
          (PLAIN, {f"{theirs} at {steps}": (steps, plan(f"{theirs}:{steps}"))
                   for theirs, steps in (("ddim", count), ("dpmpp_2m", count), *more)}),
          *(((name,), {f"the best plan at {count}": (count, plan(best[count]))}) for name, best in BEST_PLAIN.items()))
      for claim in claims(system, "nearer to many steps than DDIM", count, plan(ours), models, controls,
                          (near(None),))],
    *[claim for system, ours in (("Score-SDE", "score_sde_pc:20"), ("Score-SDE at r 0.01", "score_sde_pc(snr=0.01):20"))
      for claim in claims(system, "a corrector is worth its evaluations", 40, plan(ours), PLAIN, {
          "the predictor alone": (40, plan("score_sde_pc(corrections=0):40")), "dpmpp_2m": (40, plan("dpmpp_2m:40"))},
          (alike(None),))],
    *claims("ResShift", "4 steps do for 15", 4, plan("resshift:4"), SHARPENED, {
        "15 steps": (15, plan("resshift:15")), "one step": (1, plan("resshift:1")), "ddim": (4, plan("ddim:4"))},
        (CLEAN, FD), own_steps=RESSHIFT, steps={
            "15 steps": RESSHIFT, "one step": step_pair("resshift:1", "resshift:15"),
            "ddim": step_pair("ddim:4", "ddim:15")}),
    *[claim for system, solver in MRS.items() for claim in (
        *claims(system, "few evaluations of a restorer do", 5, plan(f"{solver}:5"), SHARPENED, {
            f"resshift at {few}": (few, plan(f"resshift:{few}")) for few in (4, 5)}, (CLEAN, FD),
            own_steps=step_pair(f"{solver}:5", f"{solver}:15"),
            steps={f"resshift at {few}": step_pair(f"resshift:{few}", "resshift:15") for few in (4, 5)}),
        *claims(system, "few evaluations of a restorer do", 6, plan(f"{solver}:6"), SPOKEN, {
            "sgmse, 60 evaluations": (60, plan("sgmse:30@linspace")), "sgmse": (6, plan("sgmse:3@linspace")),
            "dpmpp_2m_sde on linspace": (6, plan(SECOND))}, (SOUND,),
            network=step_pair(f"{solver}:6", f"{solver}:30"), own_steps=step_pair(f"{solver}:6", f"{solver}:30"),
            steps={"sgmse, 60 evaluations": SGMSE, "sgmse": step_pair("sgmse:3@linspace", "sgmse:30@linspace"),
                   "dpmpp_2m_sde on linspace": SECOND_OF_SGMSE}))],
]  # fmt: skip
