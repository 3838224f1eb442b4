"""The shipped model without its class, steered by the shipped classifier, and judged by another one.

    python -m benchmarks.steering.elucd --work FOLDER

EluCD (Ma et al. 2024, arXiv 2312.01678): a classifier of clean pictures sees the predicted sample. Its ReLUs become
Softplus of beta 3, and the energy is logsumexp(T f / 2) - T f_y with T = 1, the settings of the authors' scripts. The
row "as published" has the step's posterior variance times the authors' scale 1.5. The other rows have one weight.
"""

import argparse
import time
from pathlib import Path

import numpy as np
import onnx
import torch
from onnx import numpy_helper
from torch import Tensor, nn
from torch.nn import functional as F

from benchmarks.steering.judge import accuracy, trained
from fewstep.evaluation.distances import extractors
from fewstep.export.export import ExportOptions, export
from fewstep.export.gradient import Noisy, with_gradient
from fewstep.export.sources.shipped import fashion_mnist
from fewstep.export.spec import Spec
from fewstep.models.classifiers import Classifier
from fewstep.plans.guidance import Steer
from fewstep.runtime import load
from fewstep.runtime.bundle.manifest import Condition
from fewstep.runtime.sampler import Sampler

BETA, TEMPERATURE, DISCOUNT, SCALE = 3.0, 1.0, 0.5, 1.5
WIDTH, NULL = 32, 10


class Unconditional(nn.Module):
    """The shipped network that is never told a class."""

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = network

    def forward(self, x: Tensor, time: Tensor) -> Tensor:
        output: Tensor = self.network(x, time, torch.full(x.shape[:1], NULL))
        return output


class Energy(nn.Module):
    """Minus what the classifier says for a class, of the predicted sample."""

    def __init__(self, network: Classifier) -> None:
        super().__init__()
        self.network = network

    def forward(self, x0: Tensor, noisy: Noisy, asked: Tensor) -> Tensor:
        layers = self.network

        def smooth(h: Tensor) -> Tensor:
            return F.softplus(h, beta=BETA)

        h = F.max_pool2d(smooth(layers.conv1(x0)), 2)
        h = F.max_pool2d(smooth(layers.conv3(smooth(layers.conv2(h)))), 2)
        h = layers.features(smooth(layers.conv4(h)).flatten(1))
        logits = TEMPERATURE * layers.logits(smooth(h))
        energy: Tensor = torch.logsumexp(DISCOUNT * logits, 1) - (logits * F.one_hot(asked, 10)).sum(1)
        return energy


def classifier() -> Classifier:
    """The shipped classifier of its ONNX file, as a module."""
    network = Classifier((1, 28, 28), 10, WIDTH)
    graph = onnx.load(Path(extractors.__path__[0]) / "fashion-mnist-cnn.onnx").graph
    held = {each.name.removesuffix("_float16"): numpy_helper.to_array(each) for each in graph.initializer}
    network.load_state_dict({name: torch.from_numpy(held[name].astype(np.float32)) for name in network.state_dict()})
    return network.eval()


def make() -> tuple[nn.Module, Spec]:
    """What export calls."""
    shipped = fashion_mnist()
    spec = Spec(
        "fashion_unconditional",
        shipped.spec.x_shape,
        (),
        shipped.spec.prediction,
        shipped.spec.schedule,
    )
    asked = Condition("asked", "asked", dtype="int64", low=0, high=9)
    return with_gradient(Unconditional(shipped.module), spec, Energy(classifier()), (asked,), of="x0")


def published(sampler: Sampler, plan: str) -> Steer:
    """Weights of the paper's DDPM sampler: it adds variance x gradient to the mean, where x0 has a share of its own."""
    times = [(step.alpha, step.sigma) for step in sampler.compile(plan).steps]
    weights = []
    for (a, s), (b, r) in zip(times, [*times[1:], (1.0, 0.0)], strict=True):
        of_x0 = b * (1 - (a / b) ** 2 * (r / s) ** 2)
        variance = (r / s) ** 2 * (s**2 - (a / b) ** 2 * r**2)
        weights.append(SCALE * variance / of_x0)
    return Steer(tuple(weights), "one")


def row(
    name: str,
    sampler: Sampler,
    plan: str,
    seeds: list[int],
    condition: str,
    judge: nn.Module,
    **given: object,
) -> float:
    """Prints a row; the accuracy."""
    labels = np.array(seeds) % 10
    begun = time.process_time()
    x = sampler.sample(plan, seeds, {condition: labels}, **given)
    spent = time.process_time() - begun
    share = accuracy(judge, torch.from_numpy(np.clip(x, -1, 1)), torch.from_numpy(labels))
    print(
        f"| {name} | `{plan}` | {100 * share:.1f} | {1000 * spent / len(seeds):.0f} |",
        flush=True,
    )
    return share


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--work", type=Path, required=True)
    parser.add_argument("--seeds", type=int, default=80)
    options = parser.parse_args()
    options.work.mkdir(parents=True, exist_ok=True)
    judge = trained(options.work / "judge.pt")
    bundle, plain = options.work / "steered", options.work / "plain"
    if not bundle.exists():
        export(ExportOptions(source=f"{Path(__file__)}:make", output=bundle))
    if not plain.exists():
        export(ExportOptions(source="fashion_mnist", output=plain))
    tuning, seeds = list(range(900_000, 900_020)), list(range(options.seeds))
    print("| who | plan | % of the asked class | CPU ms a sample |\n| --- | --- | --- | --- |")
    with load(bundle) as sampler:
        choices = [5.0, 20.0, 80.0]
        tuned = [
            row(
                f"tuning, weight {w:g}",
                sampler,
                "dpmpp_2m:8",
                tuning,
                "asked",
                judge,
                guidance=Steer(w, "variance"),
            )
            for w in choices
        ]
        best = Steer(choices[int(np.argmax(tuned))], "variance")
        row(
            f"one weight, {best.weight:g}",
            sampler,
            "dpmpp_2m:20",
            seeds,
            "asked",
            judge,
            guidance=best,
        )
        row(
            "EluCD as published",
            sampler,
            "ddpm:20",
            seeds,
            "asked",
            judge,
            guidance=published(sampler, "ddpm:20"),
        )
        row("unconditional", sampler, "dpmpp_2m:8", seeds, "asked", judge)
    with load(plain) as sampler:
        row(
            "classifier-free guidance 2",
            sampler,
            "dpmpp_2m:10",
            seeds,
            "class",
            judge,
            guidance=2.0,
        )


if __name__ == "__main__":
    main()
