"""dit_flow with 8 blocks instead of 4. It is no member: caching of blocks is judged on it."""

from dataclasses import replace
from pathlib import Path

import dit_flow
from torch import nn

from fewstep.export import Spec
from fewstep.models.training import Recipe
from fewstep.models.weights import load_weights

SPEC, DATA = replace(dit_flow.SPEC, name="dit_8"), dit_flow.DATA
RECIPE = Recipe(steps=930, batch=32, rate=1e-3, seed=0)


def network() -> nn.Module:
    return dit_flow.Transformer(depth=8)


def make() -> tuple[nn.Module, Spec]:
    return load_weights(network(), Path(__file__).with_suffix(".safetensors")), SPEC
