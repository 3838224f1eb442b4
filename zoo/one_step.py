"""A student of `fashion_mnist` for one and two steps: `fewstep export zoo/one_step.py:make -o bundle`.

A transformer of `dit_flow`'s size learns pairs of noise and the large network's guided sample, as InstaFlow (Liu et al.
2024, arXiv 2309.06380) and, for small networks, SlimFlow (Zhu et al. 2024, arXiv 2407.12718). It begins at the weights
of `straight`, which reflowed `dit_flow` on these pairs. This second stage is the distillation: from pure noise to the
sample in one step. Half of each batch also learns a second step, from where the first one led. Guidance is in the
weights, so that a step is one row of the network.

    python -m zoo.pairs --work PAIRS
    python -m lab.train zoo/straight --work STRAIGHT --data PAIRS
    cp STRAIGHT/straight.safetensors PAIRS
    python -m lab.train zoo/one_step --work FOLDER --data PAIRS
"""

from pathlib import Path

import dit_flow
import torch
from denoising import Trained
from straight import TIMESTEPS, loss_of_pairs, pseudo_huber, velocity
from torch import Tensor, nn

from fewstep.export import Condition, ScheduleSpec, Spec
from fewstep.models.fashion_mnist.unet import CLASSES, IMAGE_SHAPE
from fewstep.models.training import Loss, Recipe
from fewstep.models.weights import load_weights

SECOND = 0.5  # the noise level at which the second step of `ddim:2@trailing` begins
RECIPE = Recipe(steps=2_000, batch=32, rate=1e-3, seed=1)
LABEL = Condition("class", input="label", low=0, high=len(CLASSES) - 1, labels=CLASSES)
FLOW = ScheduleSpec("flow", timesteps=TIMESTEPS)
SPEC = Spec("one_step", IMAGE_SHAPE, (LABEL,), "flow", FLOW, grid="trailing", distilled=True)


def distill(network: nn.Module, noise: Tensor, sample: Tensor, label: Tensor, _: torch.Generator) -> Tensor:
    """Return the loss of pairs: of the sample after the first step, and of half of them after the second step too."""
    ones, half = torch.ones(len(noise)), len(noise) // 2
    first = noise - velocity(network, noise, ones, label)
    x = (1 - SECOND) * first[:half].detach() + SECOND * noise[:half]
    second = x - SECOND * velocity(network, x, SECOND * ones[:half], label[:half])
    return (pseudo_huber(first - sample) + pseudo_huber(second - sample[:half])) / 2


def training(folder: Path | None, split: str) -> tuple[nn.Module, Loss]:
    """Return the network with the weights `straight.safetensors` of the folder, and its loss on the folder's pairs."""
    loss = loss_of_pairs(distill, folder, split, RECIPE.batch)
    assert folder is not None  # or it was refused
    return load_weights(dit_flow.Network(), folder / "straight.safetensors").train().requires_grad_(True), loss


make = Trained(__file__, dit_flow.Network, SPEC)
