"""Claims of systems that are one plan: solvers, guidance, changed networks and restoration."""

from dataclasses import replace
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.claims import scores
from benchmarks.claims.claim import CLEAN, FD, GUIDED, SHARPENED, SOUND, SPOKEN, Claim, beside, plan
from benchmarks.claims.settings import Setting, exported, sampler_of
from fewstep.literature.time_shift import measured_shift, shift_times
from fewstep.measure.rollouts.metrics import Floats
from fewstep.plans.guidance import CfgPlusPlus, Pag
from fewstep.plans.plan import Plan
from fewstep.plans.schedule import NoiseSchedule
from fewstep.plans.transforms import own_noise, tail
from fewstep.runtime import Sampler

# By FD of `ddim:8` on 128 seeds from 20 000 on: weights 1 to 6, and CFG++ at 0.15 to 4, of which the paper has up to 1.
CFG = {"dit_flow": 3.0, "convnext_v_cosine": 2.0}
CFG_PP = {"dit_flow": 2.0, "convnext_v_cosine": 1.5}
PAG = {"fashion_mnist": 1.0, "dit_flow": 0.25}  # by FD of 0.25 to 2 on 128 seeds from 20 000 on
# Of two branches, by FD of `dpmpp_2m:5` on such seeds: 1 to 3, and 1.5 to 4. On `fashion_mnist` 1, which is one branch,
# is the best of all
BESIDE_PAG = {"fashion_mnist": 1.25, "dit_flow": 2.0}
SKIPS = {"unet_epsilon_linear": 1.5}  # of the innermost skip, falling to 1: by FD of 0.9 to 2.2 on such seeds
# Window and cutoff: the best of six on such seeds
SHIFTS = {"unet_epsilon_linear": (20.0, 200.0), "convnext_v_cosine": (20.0, 400.0)}
APART = range(20_000, 20_064)
U_NET, PLAIN = ("unet_epsilon_linear",), ("unet_epsilon_linear", "convnext_v_cosine")
# By FD of ddim, dpmpp_2m, unipc_2 and ipndm on four grids, with that scale and without, on such seeds
JOINT, ALONE = "unipc_2:5@arctan", "ddim:5@quadratic"
MRS = "dpmpp_2m(midpoint=False)"  # MR Sampler's ODE solver of order 2 on the predicted data


def untouched(s: Setting) -> Floats:
    """What the restorer is given."""
    return np.asarray(s.who[s.condition])


def weighed(s: Setting) -> Floats:
    return s.sample("ddim:8", guidance=CFG[model(s)])


def cfg_plus_plus(s: Setting) -> Floats:
    return s.sample("ddim:8", guidance=CfgPlusPlus(CFG_PP[model(s)]))


def tuned(s: Setting, plan: str) -> Floats:
    """Skip connections scaled."""
    return replace(s, sampler=changed(s.source, change=f"skip_tuning:{SKIPS[model(s)]},1")).sample(plan)


SHIFTED: dict[tuple[Any, ...], Plan] = {}  # plans of former calls


def shifted(s: Setting, name: str) -> Floats:
    """A plan at the times that x looks like, by its variance on seeds apart."""
    key = model(s), name, *SHIFTS[model(s)]
    if key not in SHIFTED:
        plan, schedule = s.sampler.compile(name), NoiseSchedule(s.sampler.bundle.manifest.schedule)
        seen = s.sampler.steps(plan, APART, {s.condition: [seed % 10 for seed in APART]})
        variances = [float(state.u.reshape(len(APART), -1).var(1).mean()) for state in seen]
        SHIFTED[key] = shift_times(plan, measured_shift(plan, schedule, variances, *SHIFTS[model(s)]))
    return s.sample(SHIFTED[key])


def perturbed(s: Setting) -> Floats:
    """Away from the network with perturbed attention in its middle, in two branches."""
    return replace(s, sampler=changed(s.source, change="pag")).sample("dpmpp_2m:5", guidance=Pag(PAG[model(s)]))


@lru_cache
def changed(source: str, change: str) -> Sampler:
    """The network of a source, exported with a change."""
    return sampler_of(exported(source, change=change))


def model(s: Setting) -> str:
    """The model's name."""
    return Path(s.source).name.partition(".")[0]


def there_and_back(s: Setting, steps: int) -> Floats:
    """The picture inverted by BDIA, from itself and the state before it by DDIM, and made again from the noise."""
    plan, inverse = s.sampler.compile(f"bdia:{steps}"), s.sampler.compile(f"ddim_inverse:{steps}")
    first = next(iter(s.sampler.steps(inverse, s.seeds, s.others, given={"x": s.picture}))).after[0]
    both = {"x": s.picture, "x_before": first}
    noise = s.sampler.sample(f"bdia_inverse:{steps}", s.seeds, s.others, given=both) / plan.steps[0].sigma
    return np.asarray(s.sampler.sample(own_noise(plan), s.seeds, s.others, given={"noise": noise}))


def ddim_and_back(s: Setting, evaluations: int) -> Floats:
    steps = max(evaluations // 2, 2)
    noise = s.sampler.sample(f"ddim_inverse:{steps}", s.seeds, s.others, given={"x": s.picture})
    forward = tail(s.sampler.compile(f"ddim:{steps}"), 0)
    return np.asarray(s.sampler.sample(forward, s.seeds, s.others, given={"row0": noise}))


CLAIMS = [
    Claim("BDIA", "a picture comes back from its noise", "ddim_inverse and ddim", "PSNR of the source", 40,
          lambda s: there_and_back(s, 20), ddim_and_back, scores.returned, GUIDED),
    beside("CFG++", "guidance that stays near the data", "guidance of the best weight", FD, evaluations=16,
           ours=cfg_plus_plus, theirs=weighed, models=GUIDED),
    beside("PAG", "guidance without a null condition", "twice the steps", FD, evaluations=10,
           ours=perturbed, theirs=plan("dpmpp_2m:10"), models=tuple(PAG)),
    beside("PAG", "guidance without a null condition", "guidance by two branches", FD, evaluations=10,
           ours=perturbed, theirs=lambda s: s.sample("dpmpp_2m:5", guidance=BESIDE_PAG[model(s)]), models=tuple(PAG)),
    beside("Skip-Tuning", "nearer to the data in few steps", "no scale", FD, evaluations=5,
           ours=lambda s: tuned(s, "dpmpp_2m:5"), theirs=plan("dpmpp_2m:5"), models=U_NET),
    beside("Skip-Tuning", "nearer to the data in few steps", "unipc_2, the best plan", FD, evaluations=5,
           ours=lambda s: tuned(s, "unipc_2:5"), theirs=plan("unipc_2:5"), models=U_NET),
    beside("Time-Shift Sampler", "nearer to the data, without training", "the same plan", FD, evaluations=10,
           ours=lambda s: shifted(s, "ddim:10"), theirs=plan("ddim:10"), models=PLAIN),
    beside("Hyperparameters", "solver, grid and skips together", "the best solver and grid", FD, evaluations=5,
           ours=lambda s: tuned(s, JOINT), theirs=plan(ALONE), models=U_NET),
    *[beside(ours.upper(), "less divergence at guidance 7.5", theirs, FD, evaluations=16,
             ours=plan(f"{ours}:8", 7.5), theirs=plan(f"{theirs}:8", 7.5), models=GUIDED)
      for ours, rivals in (("ghvb", ("ddim", "ipndm", "dpmpp_2m")), ("hb", ("ipndm", "dpmpp_2m")))
      for theirs in rivals],
    *[beside(system, "nearer to the data than DDIM", f"{theirs} at {count}", FD, evaluations=count,
             ours=plan(f"{ours}:{steps}"), theirs=plan(f"{theirs}:{count}"), models=PLAIN)
      for system, ours, counts in (("PNDM", "s_pndm", ((20, 19), (50, 49))),
                                   ("PNDM of order 4", "f_pndm", ((20, 11), (50, 41))))
      for count, steps in counts for theirs in ("ddim", "dpmpp_2m")],
    *[beside("Score-SDE", "a corrector is worth its evaluations", control, FD, evaluations=40,
             ours=plan("score_sde_pc:20"), theirs=plan(theirs), models=PLAIN)
      for control, theirs in (("the predictor alone", "score_sde_pc(corrections=0):40"), ("dpmpp_2m", "dpmpp_2m:40"))],
    *[beside("ResShift", "4 steps do for 15", "15 steps", figure, evaluations=4, of_theirs=15,
             ours=plan("resshift:4"), theirs=plan("resshift:15"), models=SHARPENED) for figure in (CLEAN, FD)],
    *[beside("ResShift", "4 steps are enough", "ddim", figure, evaluations=4,
             ours=plan("resshift:4"), theirs=plan("ddim:4"), models=SHARPENED) for figure in (CLEAN, FD)],
    *[beside("MRS", "few evaluations of a restorer do", f"resshift at {steps}", figure, evaluations=5, of_theirs=steps,
             ours=plan(f"{MRS}:5"), theirs=plan(f"resshift:{steps}"), models=SHARPENED)
      for steps in (4, 5) for figure in (CLEAN, FD)],
    *[beside("MRS", "few evaluations of a restorer do", control, SOUND, evaluations=6, of_theirs=of_theirs,
             ours=plan(f"{MRS}:6"), theirs=plan(theirs), models=SPOKEN, seeds=None)
      for control, of_theirs, theirs in (("sgmse, 60 evaluations", 60, "sgmse:30@linspace"),
                                         ("sgmse", 6, "sgmse:3@linspace"), ("the best plan", 6, "dpmpp_2m_sde:6"))],
    *[beside("SGMSE+", claim, control, SOUND, evaluations=60, of_theirs=of_theirs,
             ours=plan("sgmse:30@linspace"), theirs=theirs, models=SPOKEN, seeds=None)
      for claim, control, of_theirs, theirs in (
          ("cleaner than the recording", "the recording", 0, untouched),
          ("a corrector is worth its evaluations", "the predictor alone", 60,
           plan("sgmse(corrections=0):60@linspace")))],
]  # fmt: skip
