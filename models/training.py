"""One training loop for every denoiser that is trained here: AdamW, EMA, bfloat16 on a CPU, stopped at any time.

The same command goes on from the last checkpoint, bit for bit in its data order: what a step draws is a function of
(seed, step). The learning rate is constant until the last fifth, then falls to zero, so a run may also be lengthened.
"""

import csv
import os
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from math import inf
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from fewstep.models.weights import write_weights

WARM_UP = 200
EMA_DECAY = 0.999
CHECKPOINT_MINUTES = 2
NULL_FRACTION = 0.1  # of the training labels: replaced by the null class, for classifier-free guidance

Loss = Callable[[nn.Module, torch.Generator], Tensor]  # one batch drawn from the generator; a float32 scalar


@dataclass(frozen=True)
class Recipe:
    """The settings that decide the result of a training run."""

    steps: int
    batch: int
    rate: float
    seed: int


@dataclass
class Run:
    """A training run as it stands: everything that a checkpoint holds."""

    network: nn.Module
    optimizer: torch.optim.Optimizer
    average: dict[str, Tensor]
    step: int = 0
    losses: list[tuple[int, float]] = field(default_factory=list)
    seconds: float = 0.0  # of all its threads on a processor

    @classmethod
    def new(cls, network: nn.Module, rate: float) -> "Run":
        optimizer = torch.optim.AdamW(network.parameters(), lr=rate, betas=(0.9, 0.99), weight_decay=1e-3)
        return cls(network, optimizer, {name: tensor.clone() for name, tensor in network.state_dict().items()})

    def load(self, path: Path) -> None:
        checkpoint = torch.load(path, weights_only=True)
        self.network.load_state_dict(checkpoint["network"])
        self.optimizer.load_state_dict(checkpoint["optimizer"])
        self.average, self.step, self.losses = checkpoint["average"], checkpoint["step"], checkpoint["losses"]
        self.seconds = checkpoint["seconds"]

    def save(self, work: Path, weights: str, recipe: Recipe) -> None:
        """Write checkpoint.pt, the averaged weights and loss.csv; a kill leaves the previous checkpoint whole."""
        content = {
            "network": self.network.state_dict(),
            "optimizer": self.optimizer.state_dict(),
            "average": self.average,
            "step": self.step,
            "losses": self.losses,
            "seconds": self.seconds,
            "recipe": asdict(recipe),
        }
        write_atomically(work / "checkpoint.pt", lambda path: torch.save(content, path))
        buffers = dict(self.network.named_buffers())
        write_atomically(work / weights, lambda path: write_weights(self.average, path, buffers))
        with (work / "loss.csv").open("w", newline="") as file:
            csv.writer(file).writerows([("step", "loss"), *self.losses])


def learning_rate(step: int, steps: int, peak: float) -> float:
    return peak * min(1.0, (step + 1) / WARM_UP, (steps - step) / (0.2 * steps))


def generator_of(seed: int, step: int) -> torch.Generator:
    """The source of everything random in a step, so that a resumed run sees the same."""
    return torch.Generator().manual_seed(seed * 1_000_003 + step)


def drop_labels(labels: Tensor, null: int, generator: torch.Generator) -> Tensor:
    """Labels [B] with NULL_FRACTION of them, in the mean, replaced by `null`."""
    return labels.masked_fill(torch.rand(len(labels), generator=generator) < NULL_FRACTION, null)


def train(network: nn.Module, loss: Loss, recipe: Recipe, work: Path, weights: str, minutes: float = inf) -> None:
    """Run to the last step, from the checkpoint in the work folder if one is there; `minutes`: stop then, at the
    latest, with a checkpoint to go on from."""
    work.mkdir(parents=True, exist_ok=True)
    run = Run.new(network.to(memory_format=torch.channels_last), recipe.rate)  # type: ignore[call-overload]
    if (work / "checkpoint.pt").exists():
        run.load(work / "checkpoint.pt")
        print(f"going on from step {run.step}", flush=True)
    started = saved = time.monotonic()
    first, running, last = run.step, list[float](), run.step >= recipe.steps
    while not last:
        before = time.process_time()
        running.append(_step(run, loss, recipe))
        run.seconds += time.process_time() - before
        last = run.step == recipe.steps or time.monotonic() - started >= 60 * minutes
        if len(running) == 50 or last:
            run.losses.append((run.step, sum(running) / len(running)))
            speed = (run.step - first) / (time.monotonic() - started)
            left = (recipe.steps - run.step) / speed / 60
            print(
                f"step {run.step}/{recipe.steps}  loss {run.losses[-1][1]:.4f}  {speed:.2f} it/s  {left:.0f} min left",
                flush=True,
            )
            running = []
        if last or time.monotonic() - saved > 60 * CHECKPOINT_MINUTES:
            run.save(work, weights, recipe)
            saved = time.monotonic()


def _step(run: Run, loss: Loss, recipe: Recipe) -> float:
    """One optimizer step; its loss."""
    with torch.autocast("cpu", dtype=torch.bfloat16):
        value = loss(run.network, generator_of(recipe.seed, run.step))
    for group in run.optimizer.param_groups:
        group["lr"] = learning_rate(run.step, recipe.steps, recipe.rate)
    run.optimizer.zero_grad(set_to_none=True)
    value.backward()
    nn.utils.clip_grad_norm_(run.network.parameters(), 1.0)
    run.optimizer.step()
    decay = min(EMA_DECAY, (1 + run.step) / (10 + run.step))
    for name, tensor in run.network.state_dict().items():
        run.average[name].lerp_(tensor, 1 - decay)
    run.step += 1
    return value.item()


def write_atomically(path: Path, write: Callable[[Path], Any]) -> None:
    """Have `write` fill a file next to `path`, then put it there."""
    partial = path.with_name(path.name + ".tmp")
    write(partial)
    os.replace(partial, path)
