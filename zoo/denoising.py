"""The denoising problem of each member of the zoo, derived from its export spec, so that a network is trained with
exactly the noising and the prediction that its bundle declares."""

from collections.abc import Callable
from dataclasses import dataclass
from math import exp
from pathlib import Path

import torch
from torch import Tensor, nn

from fewstep.export import Spec
from fewstep.models.training import Loss
from fewstep.models.weights import load_weights
from fewstep.plans.prediction import input_scale, x0_coefficients
from fewstep.plans.schedule import NoiseSchedule

LOG_SIGMA = (-1.2, 1.2)  # mean and deviation of log(sigma) in training with schedule edm (Karras et al. 2022, table 1)
HEAVIEST = 100.0  # largest weight of an epsilon; at lower noise, its error is weighted like that of x0
LEAST = 0.03  # least time of schedule ou in training, since the score is infinite at 0 (Richter et al. 2023)


@dataclass(frozen=True)
class Batch:
    """Clean samples [B, *x_shape], and conditions in the order of the spec."""

    x0: Tensor
    conditions: tuple[Tensor, ...]


Draw = Callable[[int, torch.Generator], Batch]  # draws a number of samples from the generator


@dataclass(frozen=True)
class Data:
    """The source of a member's samples: a `description` for its card, and `open(folder, split)`, where split is "train"
    or "test". A folder of None means the default folder."""

    description: str
    open: Callable[[Path | None, str], Draw]


@dataclass(frozen=True)
class Trained:
    """The function that `fewstep export FILE:make` calls: it returns the network with the weights next to the recipe's
    file. `network()` returns the untrained network."""

    file: str
    network: Callable[[], nn.Module]
    spec: Spec

    def __call__(self) -> tuple[nn.Module, Spec]:
        from weight_files import check_weights  # next to each recipe, which may be in another folder than this module

        weights = check_weights(Path(self.file).with_suffix(".safetensors"))
        return load_weights(self.network(), weights), self.spec


@dataclass(frozen=True)
class Problem:
    """What the network must predict at some times [B]: its input, the correct output, and the weight of the squared
    error."""

    x: Tensor
    answer: Tensor
    weight: Tensor


def draw_times(spec: Spec, count: int, generator: torch.Generator) -> list[float]:
    """Draw network times for training: uniform integer timesteps; for schedule edm, a normal distribution of
    log(sigma); for schedule exploding, a uniform distribution of log(sigma); otherwise uniform times between the
    ends."""
    schedule = NoiseSchedule(spec.schedule)
    if schedule.timesteps:
        return [float(t) for t in torch.randint(schedule.timesteps, (count,), generator=generator)]
    path = schedule.path
    if spec.schedule.kind == "edm":
        mean, deviation = LOG_SIGMA
        logs = mean + deviation * torch.randn(count, generator=generator, dtype=torch.float64)
        times = [schedule.time_at_rho(exp(log)).network for log in logs.tolist()]
    elif spec.schedule.kind == "exploding":
        shares = torch.rand(count, generator=generator, dtype=torch.float64)
        times = (path.first * (path.last / path.first) ** shares).tolist()
    else:
        least = LEAST if spec.schedule.kind == "ou" else path.first
        times = (least + (path.last - least) * torch.rand(count, generator=generator, dtype=torch.float64)).tolist()
    return [min(max(t, path.first), path.last) for t in times]


def problem(spec: Spec, batch: Batch, times: list[float], noise: Tensor) -> Problem:
    """Return the problem of a network of this spec for clean samples with this noise [B, *x_shape]."""
    schedule = NoiseSchedule(spec.schedule)
    points = [schedule.time(t) for t in times]
    pairs = [x0_coefficients(spec.prediction, point, spec.schedule) for point in points]

    def column(values: list[float]) -> Tensor:
        return torch.tensor(values).reshape(-1, *[1] * (noise.dim() - 1))

    alpha, sigma = column([point.alpha for point in points]), column([point.sigma for point in points])
    a, b = column([a for a, _ in pairs]), column([b for _, b in pairs])
    noisy = alpha * batch.x0 + sigma * noise
    answer = (batch.x0 - a * noisy) / b
    if spec.towards is not None:
        names = [condition.name for condition in spec.conditions]
        reverts_to = batch.conditions[names.index(spec.towards)]
        noisy = noisy + (1 - alpha) * reverts_to
        answer = answer + reverts_to if spec.prediction == "residual" else answer
    scale = column([input_scale(spec.prediction, point, spec.schedule) for point in points])
    return Problem(scale * noisy, answer, _weight(spec, alpha, sigma))


def _weight(spec: Spec, alpha: Tensor, sigma: Tensor) -> Tensor:
    if spec.prediction == "score":
        return sigma**2
    if spec.prediction == "epsilon":
        return ((sigma / alpha) ** 2).clamp(1, HEAVIEST)
    return torch.ones_like(sigma)


def loss_of(spec: Spec, network: nn.Module, draw: Draw, count: int, generator: torch.Generator) -> Tensor:
    """Return the weighted mean squared error of the network's outputs on `count` samples. A score is weighted like
    noise."""
    batch = draw(count, generator)
    times = draw_times(spec, count, generator)
    asked = problem(spec, batch, times, torch.randn(batch.x0.shape, generator=generator))
    answer = network(asked.x, torch.tensor(times), *batch.conditions)
    return (asked.weight * (answer.float() - asked.answer).square()).mean()


def training_loss(spec: Spec, draw: Draw, count: int) -> Loss:
    """Return the loss that `fewstep.models.training` minimises."""
    return lambda network, generator: loss_of(spec, network, draw, count, generator)
