"""A student of one and two steps on Fashion-MNIST: `fewstep export benchmarks/reflow/student.py:make`.

A small transformer learns a large network's pairs of noise and guided sample, as SlimFlow does (Zhu et al. 2024,
arXiv 2407.12718). It begins at the weights of `straight.py`, which reflowed `zoo/dit_flow` on these pairs. Guidance is
in its weights: it has no null class, and a step is one row of the network.

This second stage is a distillation, as InstaFlow has it (Liu et al. 2024, arXiv 2309.06380): from pure noise to the
sample in one step. Half of a batch learns a second step too, from where the first one led.

    python -m benchmarks.reflow.pairs --work PAIRS
    python -m benchmarks.train reflow/straight --work STRAIGHT --data PAIRS
    cp STRAIGHT/straight.safetensors PAIRS
    python -m benchmarks.train reflow/student --work STUDENT --data PAIRS
"""

from pathlib import Path

import torch
from straight import TIMESTEPS, batches, dit_flow, pseudo_huber, velocity
from torch import Tensor, nn

from fewstep.export import Condition, ScheduleSpec, Spec
from fewstep.models.fashion_mnist.unet import CLASSES, IMAGE_SHAPE
from fewstep.models.training import Loss, Recipe
from fewstep.models.weights import load_weights

SECOND = 0.5  # of the noise: where the second step of `ddim:2@trailing` begins
RECIPE = Recipe(steps=2_000, batch=32, rate=1e-3, seed=1)
LABEL = Condition("class", input="label", low=0, high=len(CLASSES) - 1, labels=CLASSES)
FLOW = ScheduleSpec("flow", timesteps=TIMESTEPS)
GRID = "trailing"  # of 1 and SECOND, which it knows
SPEC = Spec("student", IMAGE_SHAPE, (LABEL,), "flow", FLOW, grid=GRID, distilled=True)


def distilled(network: nn.Module, noise: Tensor, sample: Tensor, label: Tensor, _: torch.Generator) -> Tensor:
    """The loss of pairs: the sample after the first step of all, and after the second step of half."""
    ones, half = torch.ones(len(noise)), len(noise) // 2
    first = noise - velocity(network, noise, ones, label)
    x = (1 - SECOND) * first[:half].detach() + SECOND * noise[:half]
    second = x - SECOND * velocity(network, x, SECOND * ones[:half], label[:half])
    return (pseudo_huber(first - sample) + pseudo_huber(second - sample[:half])) / 2


def training(folder: Path | None, split: str) -> tuple[nn.Module, Loss]:
    """On the folder's pairs, from the weights `straight.safetensors` there."""
    loss = batches(distilled, folder, split, RECIPE.batch)
    assert folder is not None  # or it was refused
    return load_weights(dit_flow.network(), folder / "straight.safetensors").train().requires_grad_(True), loss


def make() -> tuple[nn.Module, Spec]:
    return load_weights(dit_flow.network(), Path(__file__).with_suffix(".safetensors")), SPEC
