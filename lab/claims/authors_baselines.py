"""The controls that are the authors' own baselines, by the system of a line. Only these decide whether a claim of the
authors holds; the others say what the system is worth to a user.

A control counts if the paper or its code compares with the same method, on its own networks. `LCM-LoRA` at N steps is
compared with the usual solvers in as many, `HB` and `Nesterov` with PLMS of their order, and with the solver that
gets momentum. A search is compared with the best plan without it. FK steering and SVDD are compared with the best of
as many samples of their own plan, and RBF with that of a plan without noise and with SVDD, as in its paper.
Any-Size-Diffusion is compared with tiles that overlap. The batch of StreamDiffusion has no baseline here: its claim is
of GPUs, and the lines are of a CPU. AutoDiffusion is compared with DDIM in 4 steps, which no line has.
"""

from lab.claims.claim import MORE_STEPS, OF_ITS_PLAN

AUTHORS: dict[str, tuple[str, ...]] = {
    "PAG": ("one row in half the evaluations",),
    "CFG++": ("guidance of the best weight",),
    "BDIA": ("ddim_inverse and ddim",),
    "InstaFlow": ("its teacher, 8 steps",),
    "OLSS": ("the best plan",),
    "LCM-LoRA": ("the best plan at 1", "the best plan at 2", "the best plan at 4"),
    "GHVB": ("ghvb(beta=1)", "dpmpp_2m"),
    "GHVB of order 4": ("ipndm",),
    "HB": ("ghvb(beta=1)",),
    "HB of order 4": ("ipndm",),
    "HB on DPM-Solver++": ("dpmpp_2m",),
    "HB on UniPC": ("unipc_2",),
    "Nesterov": ("ghvb(beta=1)",),
    "Nesterov of order 4": ("ipndm",),
    "DPM-Solver++": ("ddim", "ddim in 50 steps", "ddim in 100 steps"),
    "singlestep DPM-Solver": ("ddim", "ddim in 50 steps"),
    "DEIS": ("ddim", "ddim in 50 steps"),
    "S³": ("the best plan",),
    "DC-Solver": ("the best plan",),
    "analytical teleportation": ("the best plan",),
    "MRS": ("sgmse", "sgmse, 60 evaluations"),
    "MRS of the SDE": ("sgmse", "sgmse, 60 evaluations"),
    "Score-SDE": ("the predictor alone",),
    "Score-SDE at r 0.01": ("the predictor alone",),
    "PNDM": ("ddim at 20", "ddim at 50", "ddim at 250", "ddim at 1000"),
    "PNDM of order 4": ("ddim at 20", "ddim at 50", "ddim at 250", "ddim at 1000"),
    "StreamDiffusion RCFG": ("two branches of the best weight",),
    "StreamDiffusion filter": ("no filter",),
    "illustration sequences": ("one noise",),
    "SVDD": (OF_ITS_PLAN,),
    "noise search": (MORE_STEPS,),
    "FK steering": (OF_ITS_PLAN,),
    "RBF": ("best of N", "SVDD"),
    "FK correctors": ("guidance alone",),
    "Time-Shift Sampler": ("the same plan",),
    "Any-Size-Diffusion": ("windows that overlap by half",),
    "Skip-Tuning": ("no scale",),
    "Denoising MCMC": ("dpmpp_2m",),
    "SGMSE+": ("the recording", "the predictor alone"),
    "StoRM": ("sgmse, 60 evaluations",),
    "StoRM as published, 5 steps": ("sgmse, 60 evaluations",),
    "StoRM as published, 10 steps": ("sgmse, 60 evaluations",),
    "ResShift": ("15 steps",),
    "LoRA-enhanced distillation": ("two rows, 8 steps",),
    "NASA": ("no negative text",),
}

BETTER_BUT_REFUSED = {  # a control that is better by a figure which its own steps make worse: network, few steps
    "MRS": ("speech_ncsn", "dpmpp_2m_sde:6"),
    "Resfusion": ("resfusion", "dpmpp_2m_sde:4"),
}
