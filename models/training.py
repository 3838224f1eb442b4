"""The training loop of all shipped denoisers and of the zoo: AdamW, EMA, bfloat16, on a CPU or a GPU.

A run can be stopped at any time. The same command continues from the last checkpoint with the same data order, since
the random numbers of a step are a function of (seed, step, type of device). The learning rate is constant for four
fifths of the steps and then decreases to zero, so the number of steps can be increased later.
"""

import csv
import os
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from math import inf
from pathlib import Path
from typing import Any, cast

import torch
from torch import Tensor, nn

from fewstep.models.weights import write_weights

WARM_UP = 200
EMA_DECAY = 0.999
CHECKPOINT_MINUTES = 2
LOSSES = 50  # number of steps whose mean loss is printed and stored
NULL_FRACTION = 0.1  # share of labels replaced by the null class in training, for classifier-free guidance

# Draws a batch from the generator, on the generator's device, and returns its loss as a float32 scalar.
Loss = Callable[[nn.Module, torch.Generator], Tensor]


@dataclass(frozen=True)
class Recipe:
    """The settings that determine the result of a training run."""

    steps: int
    batch: int
    rate: float
    seed: int


@dataclass
class Run:
    """The state of a training run, as stored in a checkpoint."""

    network: nn.Module
    optimizer: torch.optim.Optimizer
    average: dict[str, Tensor]
    step: int = 0
    losses: list[tuple[int, float]] = field(default_factory=list)
    seconds: float = 0.0  # CPU time of all threads, or elapsed time on a GPU

    @classmethod
    def new(cls, network: nn.Module, rate: float) -> "Run":
        on_gpu = next(network.parameters()).is_cuda
        optimizer = torch.optim.AdamW(
            network.parameters(), lr=rate, betas=(0.9, 0.99), weight_decay=1e-3, fused=on_gpu or None
        )
        return cls(network, optimizer, {name: tensor.clone() for name, tensor in network.state_dict().items()})

    def load(self, path: Path) -> None:
        checkpoint = torch.load(path, weights_only=True, map_location=next(self.network.parameters()).device)
        self.network.load_state_dict(checkpoint["network"])
        self.optimizer.load_state_dict(checkpoint["optimizer"])
        self.average, self.step, self.losses = checkpoint["average"], checkpoint["step"], checkpoint["losses"]
        self.seconds = checkpoint["seconds"]

    def save(self, work: Path, weights: str, recipe: Recipe) -> None:
        """Write checkpoint.pt, the averaged weights and loss.csv. If the process is killed, the previous checkpoint
        remains intact."""
        content = {
            "network": self.network.state_dict(),
            "optimizer": self.optimizer.state_dict(),
            "average": self.average,
            "step": self.step,
            "losses": self.losses,
            "seconds": self.seconds,
            "device": _device_name(self.network),
            "recipe": asdict(recipe),
        }
        write_atomically(work / "checkpoint.pt", lambda path: torch.save(content, path))
        buffers = dict(self.network.named_buffers())
        write_atomically(work / weights, lambda path: write_weights(self.average, path, buffers))
        with (work / "loss.csv").open("w", newline="") as file:
            csv.writer(file).writerows([("step", "loss"), *self.losses])


def _device_name(network: nn.Module) -> str:
    """Return the maker's name of a network's GPU, or "CPU"."""
    device = next(network.parameters()).device
    return torch.cuda.get_device_name(device) if device.type == "cuda" else "CPU"


def learning_rate(step: int, steps: int, peak: float) -> float:
    return peak * min(1.0, (step + 1) / WARM_UP, (steps - step) / (0.2 * steps))


def generator_of(seed: int, step: int, device: str | torch.device = "cpu") -> torch.Generator:
    """Return the generator for all random numbers of a step, so that a resumed run draws the same."""
    return torch.Generator(device).manual_seed(seed * 1_000_003 + step)


def drop_labels(labels: Tensor, null: int, generator: torch.Generator) -> Tensor:
    """Return labels [B] of which, on average, a fraction NULL_FRACTION is replaced by `null`."""
    return labels.masked_fill(_chances(len(labels), generator) < NULL_FRACTION, null)


def _chances(count: int, generator: torch.Generator) -> Tensor:
    return torch.rand(count, generator=generator, device=generator.device)


def train(
    network: nn.Module,
    loss: Loss,
    recipe: Recipe,
    work: Path,
    weights: str,
    minutes: float = inf,
    device: str = "cpu",
) -> None:
    """Train to the last step of the recipe, from the checkpoint in the folder `work` if there is one.

    After `minutes` the run stops with a checkpoint, from which the next call continues. `device` is a device of torch;
    on "cuda" the network is compiled.
    """
    work.mkdir(parents=True, exist_ok=True)
    network = network.to(device=device, memory_format=torch.channels_last)  # type: ignore[call-overload]
    run = Run.new(network, recipe.rate)
    if (work / "checkpoint.pt").exists():
        run.load(work / "checkpoint.pt")
        print(f"continuing from step {run.step}", flush=True)
    compiled = cast(nn.Module, torch.compile(network)) if device.startswith("cuda") else network
    clock = time.monotonic if compiled is not network else time.process_time
    started = saved = time.monotonic()
    first, running, last = run.step, list[Tensor](), run.step >= recipe.steps
    while not last:
        before = clock()
        running.append(_step(run, compiled, loss, recipe, device))
        run.seconds += clock() - before
        last = run.step == recipe.steps or time.monotonic() - started >= 60 * minutes
        if len(running) == LOSSES or last:
            run.losses.append((run.step, torch.stack(running).mean().item()))
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


def _step(run: Run, compiled: nn.Module, loss: Loss, recipe: Recipe, device: str) -> Tensor:
    """Make one optimizer step. Return the loss as a tensor on the device, since reading its value would wait for the
    device."""
    with torch.autocast(torch.device(device).type, dtype=torch.bfloat16):
        value = loss(compiled, generator_of(recipe.seed, run.step, device))
    for group in run.optimizer.param_groups:
        group["lr"] = learning_rate(run.step, recipe.steps, recipe.rate)
    run.optimizer.zero_grad(set_to_none=True)
    value.backward()
    nn.utils.clip_grad_norm_(run.network.parameters(), 1.0)
    run.optimizer.step()
    decay = min(EMA_DECAY, (1 + run.step) / (10 + run.step))
    state = run.network.state_dict()
    torch._foreach_lerp_([run.average[name] for name in state], list(state.values()), 1 - decay)
    run.step += 1
    return value.detach()


def write_atomically(path: Path, write: Callable[[Path], Any]) -> None:
    """Let `write` fill a temporary file, then rename it to `path`."""
    partial = path.with_name(path.name + ".tmp")
    write(partial)
    os.replace(partial, path)
