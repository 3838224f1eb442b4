"""A LoRA file for `dit_flow` that includes guidance, so that a step evaluates one row of the network instead of two.

    python -m lab.train zoo/guided_lora --work WORK
    fewstep export zoo/dit_flow.py:make -o bundle --lora-slots '*' --rank 8
    fewstep run bundle -c class=3 --adapter zoo/guided_lora.safetensors --plan dpmpp_2m:8

Distillation of guidance into low-rank changes (Golnari 2023, arXiv 2312.06899): the changed network learns the result
of two branches of the original network at a fixed weight, by the squared error of the velocity.
"""

from pathlib import Path

import dit_flow as teacher
import pictures
import torch
from adapter import Adapter
from denoising import Draw
from torch import Tensor, nn

from fewstep.export import Spec
from fewstep.models.training import Loss, Recipe

SPEC, DATA = teacher.SPEC, teacher.DATA
RANK, GUIDANCE = 8, 3.0
LAST = 1000  # the network's time at pure noise
RECIPE = Recipe(steps=450, batch=16, rate=2e-3, seed=0)
WEIGHTS = Path(__file__).with_suffix(".safetensors")


def distillation(guided: nn.Module, draw: Draw, count: int) -> Loss:
    """Return the loss that `fewstep.models.training` minimises."""

    def loss(student: nn.Module, generator: torch.Generator) -> Tensor:
        batch = draw(count, generator)
        (label,) = batch.conditions  # a tenth has no class, and guidance has no effect on it
        time = torch.rand(count, generator=generator)
        at = time[:, None, None, None]
        x = (1 - at) * batch.x0 + at * torch.randn(batch.x0.shape, generator=generator)
        with torch.no_grad():
            both = torch.cat([label, torch.full_like(label, pictures.NULL)])
            given, none = guided(torch.cat([x, x]), LAST * time.repeat(2), both).float().chunk(2)
        return (student(x, LAST * time, label).float() - none - GUIDANCE * (given - none)).square().mean()

    return loss


def adapter() -> Adapter:
    return Adapter(teacher.make()[0], RANK)


def training(folder: Path | None, split: str) -> tuple[nn.Module, Loss]:
    draw = DATA.open(folder, split)
    return adapter(), distillation(teacher.make()[0], draw, RECIPE.batch)


def trained() -> Adapter:
    return adapter().read(WEIGHTS)


def make() -> tuple[nn.Module, Spec]:
    """Return the network with the file merged into its weights, and its spec."""
    return trained().merge(), SPEC
