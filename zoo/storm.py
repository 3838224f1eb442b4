"""StoRM on the zoo's voices (Lemercier et al. 2023, arXiv 2212.11851): a network predicts the clean voice, and a score
network uses the prediction in place of SGMSE+'s noisy voice. Both have the architecture and size of `zoo/speech_ncsn`.

    python -m lab.train zoo/storm --work WORK
    fewstep export zoo/storm.py:predictor -o predictor
    fewstep export zoo/storm.py:make -o score
    fewstep run predictor --plan ddim:1 -c y=@noisy.npy -o predicted.npy
    fewstep run score --plan ddim:5 -c y=@noisy.npy -c predicted=@predicted.npy -o clean.npy

As in the authors' code, both networks are trained together, with half of each loss, and the score network takes the
noisy voice and the prediction. That code samples by `sgmse(corrections=0)`, but in N steps of 1/N; both need more
steps.
"""

from pathlib import Path

import msgspec
import speech_ncsn as alone
import torch
from denoising import Batch, Draw, loss_of
from torch import Tensor, nn

from fewstep.export import ScheduleSpec, Spec
from fewstep.models.training import Loss, Recipe
from fewstep.models.weights import load_weights

DATA, SHAPE = alone.DATA, alone.SHAPE
PREDICTED = msgspec.structs.replace(alone.Y, name="predicted", input="predicted")
SPEC = msgspec.structs.replace(alone.SPEC, name="storm", conditions=(alone.Y, PREDICTED), towards="predicted")
PREDICTOR = Spec(
    "predictor", SHAPE, (alone.Y,), "sample", ScheduleSpec("flow"), spectrogram=alone.SOUND, distilled=True
)
RECIPE = Recipe(steps=900, batch=16, rate=1e-3, seed=0)
WEIGHTS = Path(__file__).with_suffix(".safetensors")


class Predictor(nn.Module):
    """Predicts the clean voice from noisy ones y [B, 2, 64, 32]; x and time are ignored."""

    def __init__(self) -> None:
        super().__init__()
        self.network = alone.Network()

    def forward(self, x: Tensor, time: Tensor, y: Tensor) -> Tensor:
        clean: Tensor = self.network(y, torch.ones_like(time), y)
        return clean


class Score(nn.Module):
    """Predicts the score of x [B, 2, 64, 32] at time [B] in (0, 1], given the noisy voice and the predicted one."""

    def __init__(self) -> None:
        super().__init__()
        self.network = alone.Network()
        self.network.conv_in = nn.Conv2d(3 * SHAPE[0], self.network.conv_in.out_channels, 3, padding=1)

    def forward(self, x: Tensor, time: Tensor, y: Tensor, predicted: Tensor) -> Tensor:
        score: Tensor = self.network(x, time, torch.cat([y, predicted], 1))
        return score


class Both(nn.Module):
    """Both networks, which are trained together."""

    def __init__(self) -> None:
        super().__init__()
        self.predictor, self.score = Predictor(), Score()


network = Both


def loss(draw: Draw, count: int) -> Loss:
    """Return half the squared error of the prediction, plus half the loss of the score around it."""

    def errors(both: nn.Module, generator: torch.Generator) -> Tensor:
        batch = draw(count, generator)
        (y,) = batch.conditions
        predicted = both.predictor(batch.x0, torch.ones(count), y).float()

        def drawn(count: int, generator: torch.Generator) -> Batch:
            return Batch(batch.x0, (y, predicted))

        error = (predicted - batch.x0).square().mean()
        return (error + loss_of(SPEC, both.score, drawn, count, generator)) / 2

    return errors


def trained() -> Both:
    return load_weights(Both(), WEIGHTS)


def make() -> tuple[nn.Module, Spec]:
    return trained().score, SPEC


def predictor() -> tuple[nn.Module, Spec]:
    return trained().predictor, PREDICTOR
