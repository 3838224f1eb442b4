"""A LoRA file for `dit_flow`, for one to four evaluations with the solver `lcm`. It includes guidance, like
`guided_lora`.

    python -m lab.train zoo/consistency_lora --work WORK
    fewstep export zoo/dit_flow.py:make -o bundle --lora-slots '*' --rank 8
    fewstep run bundle -c class=3 --adapter zoo/consistency_lora.safetensors --plan lcm:4

Consistency distillation into low-rank changes (LCM-LoRA: Luo et al. 2023, arXiv 2311.05556). As in the authors' code, a
DDIM step with the guided teacher leads to a cleaner time, the output of the student there is the target, and the loss
is pseudo-Huber. Here the teacher is the network with the file of `guided_lora`, from which the student is initialised.
"""

from pathlib import Path

import guided_lora
import torch
from adapter import Adapter
from denoising import Draw
from guided_lora import LAST
from torch import Tensor, nn

from fewstep.export import Spec
from fewstep.models.training import Loss, Recipe

SPEC, DATA = guided_lora.SPEC, guided_lora.DATA
TIMES = 8  # number of the teacher's steps; `ddim:8` has FD 155
HUBER = 0.001
RECIPE = Recipe(steps=600, batch=16, rate=1e-3, seed=0)
WEIGHTS = Path(__file__).with_suffix(".safetensors")


def ended(network: nn.Module, x: Tensor, time: Tensor, label: Tensor) -> Tensor:
    """Return x0 of x [B, 1, 28, 28] at times [B] in [0, 1]. At 0 this is x itself, the boundary condition of a
    consistency function."""
    x0: Tensor = x - time[:, None, None, None] * network(x, LAST * time, label).float()
    return x0


def distillation(guided: nn.Module, draw: Draw, count: int) -> Loss:
    """Return the loss that `fewstep.models.training` minimises."""

    def loss(student: nn.Module, generator: torch.Generator) -> Tensor:
        batch = draw(count, generator)
        (label,) = batch.conditions
        time = (1 + torch.randint(TIMES, (count,), generator=generator)) / TIMES
        at = time[:, None, None, None]
        x = (1 - at) * batch.x0 + at * torch.randn(batch.x0.shape, generator=generator)
        with torch.no_grad():
            before = x - guided(x, LAST * time, label).float() / TIMES
            target = ended(student, before, time - 1 / TIMES, label)
        difference = ended(student, x, time, label) - target
        return ((difference.square() + HUBER**2).sqrt() - HUBER).mean()

    return loss


def training(folder: Path | None, split: str) -> tuple[nn.Module, Loss]:
    draw = DATA.open(folder, split)
    return guided_lora.trained().requires_grad_(True), distillation(guided_lora.make()[0], draw, RECIPE.batch)


def trained() -> Adapter:
    return guided_lora.adapter().read(WEIGHTS)


def make() -> tuple[nn.Module, Spec]:
    """Return the network with the file merged into its weights, and its spec."""
    return trained().merge(), SPEC
