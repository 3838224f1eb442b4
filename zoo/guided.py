"""A student of `zoo/dit_flow` that takes the weight of guidance as a condition, and evaluates one row of the network
per step.

    python -m lab.train zoo/guided --work WORK
    fewstep export zoo/guided.py:make -o bundle
    fewstep run bundle -c class=3 -c weight=2 --plan dpmpp_2m:8

The first stage of the distillation of guided models (Meng et al. 2023, arXiv 2210.03142, algorithm 1). The student is
initialised with the teacher's weights, and learns the result of two branches of the teacher at a guidance weight, by
the squared error of the velocity. The weight is embedded like the time.
"""

from pathlib import Path

import dit_flow as teacher
import msgspec
import pictures
import torch
from denoising import Draw, Trained
from torch import Tensor, nn

from fewstep.export import Condition, Spec
from fewstep.models.blocks import time_features, zero
from fewstep.models.training import Loss, Recipe

FEATURES = 64
LEAST, MOST = 1.0, 4.0  # range of guidance weights
LAST = 1000  # the network's time at pure noise
WEIGHT = Condition("weight", input="weight", dtype="float32", low=LEAST, high=MOST, default=(2.0,))
LABEL = msgspec.structs.replace(pictures.LABEL, null=None)  # guidance is in the weights
SPEC = Spec("guided", teacher.SPEC.x_shape, (LABEL, WEIGHT), "flow", teacher.SPEC.schedule)
DATA = teacher.DATA
RECIPE = Recipe(steps=450, batch=16, rate=7e-4, seed=0)


class LabelAndWeight(nn.Module):
    """Embedding [B, width] of labels [B], as in the teacher, and of guidance weights [B]."""

    def __init__(self, labels: nn.Embedding) -> None:
        super().__init__()
        width = labels.embedding_dim
        self.labels = labels
        self.weights = nn.Sequential(nn.Linear(FEATURES, width), nn.SiLU(), nn.Linear(width, width))
        zero(self.weights[2])

    def forward(self, both: tuple[Tensor, Tensor]) -> Tensor:
        label, weight = both
        embedding: Tensor = self.labels(label) + self.weights(time_features(LAST * (weight - LEAST), FEATURES))
        return embedding


class Network(nn.Module):
    """Predicts the velocity of x [B, 1, 28, 28] at times [B] in [0, 1000] for labels [B], guided with weights [B]."""

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        network.label_embedding = LabelAndWeight(network.label_embedding)
        self.network = network

    def forward(self, x: Tensor, time: Tensor, label: Tensor, weight: Tensor) -> Tensor:
        velocity: Tensor = self.network(x, time, (label, weight))
        return velocity


def distillation(guided: nn.Module, draw: Draw, count: int) -> Loss:
    """Return the loss that `fewstep.models.training` minimises."""

    def loss(student: nn.Module, generator: torch.Generator) -> Tensor:
        batch = draw(count, generator)
        (label,) = batch.conditions  # a tenth has no class, and the weight has no effect on it
        time = torch.rand(count, generator=generator)
        weight = LEAST + (MOST - LEAST) * torch.rand(count, generator=generator)
        at = time[:, None, None, None]
        x = (1 - at) * batch.x0 + at * torch.randn(batch.x0.shape, generator=generator)
        with torch.no_grad():
            both = torch.cat([label, torch.full_like(label, pictures.NULL)])
            given, none = guided(torch.cat([x, x]), LAST * time.repeat(2), both).float().chunk(2)
            target = none + weight[:, None, None, None] * (given - none)
        return (student(x, LAST * time, label, weight).float() - target).square().mean()

    return loss


def training(folder: Path | None, split: str) -> tuple[nn.Module, Loss]:
    draw = DATA.open(folder, split)
    network = Network(teacher.make()[0]).train().requires_grad_(True)
    return network, distillation(teacher.make()[0], draw, RECIPE.batch)


make = Trained(__file__, lambda: Network(teacher.make.network()), SPEC)
