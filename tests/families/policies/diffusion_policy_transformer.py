"""diffusion_policy's transformer, causal: what is made of the observations, keys and values included, is prologue."""

import torch

from fewstep.export import Condition, Policy, ScheduleSpec, Spec
from fewstep.robots.networks.diffusion_policy import DiffusionPolicy, VectorObservation
from fewstep.robots.networks.transformer import PolicyTransformer

NAME = "Diffusion policy, transformer (FILE.py:FUNCTION)"
PLAN = "ddim:2@trailing"


def make():
    torch.manual_seed(0)
    network = PolicyTransformer(2, 8, 2, 5, layers=2, heads=2, width=32, is_causal=True)
    torch.nn.init.normal_(network.pos_emb, std=0.1)
    torch.nn.init.normal_(network.cond_pos_emb, std=0.1)
    return DiffusionPolicy(network, {"obs": VectorObservation(5)}, observations=2), Spec(
        "transformer_policy",
        (8, 2),
        (Condition("obs", "obs", (2, 5), "float32", typical=(-1.0, 1.0)),),
        "epsilon",
        ScheduleSpec("cosine", timesteps=100),
        policy=Policy(observations=2, first=1, actions=4),
    )
