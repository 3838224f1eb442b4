"""The shipped model without its class, steered by the shipped classifier, and judged by another one.

    python -m benchmarks.steering.elucd --work FOLDER

EluCD (Ma et al. 2024, arXiv 2310.11311): a classifier of clean pictures sees the predicted sample. Its ReLUs become
Softplus, and the energy is logsumexp(d f) - f_y: d = 1 is minus the log-probability, d = 0.5 the authors' "margin"
that weighs the joint one more. Their scripts have beta 3, d = 0.5, and weights that are the step's posterior variance
plus gamma sin(pi t / T) times its largest, gamma 0.3. Beta 3 leaves this classifier half of its accuracy, which the
first lines show, and the tuned rows take 10. The weight and d are those that are best on 20 other seeds.
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

from benchmarks.shipped.classifiers import Classifier
from benchmarks.steering.judge import accuracy, trained
from fewstep.evaluation.distances import extractors
from fewstep.export.export import ExportOptions, export
from fewstep.export.gradient import Noisy, with_gradient
from fewstep.export.sources.shipped import fashion_mnist
from fewstep.export.spec import Spec
from fewstep.models.fashion_mnist.data import read
from fewstep.plans.guidance import Steer
from fewstep.runtime import load
from fewstep.runtime.bundle.manifest import Condition
from fewstep.runtime.sampler import Sampler

PUBLISHED = (3.0, 0.5)  # beta and d of the authors' scripts
BETAS, TUNED_BETA = (1.0, 3.0, 10.0, 30.0), 10.0
WEIGHTS, DISCOUNTS, GAMMA = (20.0, 60.0, 180.0), (0.5, 1.0), 0.3
STEPS = 20
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

    def forward(self, x0: Tensor, noisy: Noisy, asked: Tensor, settings: Tensor) -> Tensor:
        """`settings` [B, 2] are beta and d."""
        beta, discount = settings.unbind(1)
        logits = self.logits(x0, beta)
        energy: Tensor = torch.logsumexp(discount[:, None] * logits, 1) - (logits * F.one_hot(asked, 10)).sum(1)
        return energy

    def logits(self, x0: Tensor, beta: Tensor) -> Tensor:
        """Of the classifier with Softplus for ReLU, beta [B]. [B, 10]"""
        layers = self.network

        def smooth(h: Tensor) -> Tensor:
            b = beta[(..., *[None] * (h.dim() - 1))]
            return F.softplus(b * h) / b

        h = F.max_pool2d(smooth(layers.conv1(x0)), 2)
        h = F.max_pool2d(smooth(layers.conv3(smooth(layers.conv2(h)))), 2)
        h = layers.features(smooth(layers.conv4(h)).flatten(1))
        return layers.logits(smooth(h))


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
    settings = Condition("settings", "settings", (2,), "float32", typical=(1.0, 3.0))
    energy = Energy(classifier())
    return with_gradient(Unconditional(shipped.module), spec, energy, (asked, settings), of="x0")


def published(sampler: Sampler, plan: str) -> Steer:
    """Weights of the authors' DDPM sampler, as factors of x0: what it adds to the mean, where x0 has a share of its
    own."""
    times = [(step.alpha, step.sigma) for step in sampler.compile(plan).steps]
    pairs = list(zip(times, [*times[1:], (1.0, 0.0)], strict=True))
    variances = [(r / s) ** 2 * (s**2 - (a / b) ** 2 * r**2) for (a, s), (b, r) in pairs]
    weights = []
    for number, (((a, s), (b, r)), variance) in enumerate(zip(pairs, variances, strict=True)):
        late = max(np.sin(np.pi * (1 - number / len(pairs))), 0.0) * GAMMA * max(variances[: number + 1])
        weights.append((variance + late) / (b * (1 - (a / b) ** 2 * (r / s) ** 2)))
    return Steer(tuple(weights), "one")


def accuracies(judge: nn.Module) -> None:
    """Prints what is left of both classifiers' accuracy on 1000 test pictures."""
    images, labels = (torch.from_numpy(part.copy())[:1000] for part in read(split="t10k"))
    pictures, energy = images[:, None].float() / 127.5 - 1, Energy(classifier())
    with torch.no_grad():
        for beta in BETAS:
            right = energy.logits(pictures, torch.full((1000,), beta)).argmax(1) == labels
            print(f"shipped classifier, beta {beta:g}: {100 * right.float().mean():.1f} %")
    print(f"judge: {100 * accuracy(judge, pictures, labels.long()):.1f} %\n", flush=True)


def row(name: str, sampler: Sampler, plan: str, seeds: list[int], judge: nn.Module, **given: object) -> float:
    """Prints a row; the accuracy. `given` is what `sample` takes."""
    labels = np.array(seeds) % 10
    begun = time.process_time()
    x = sampler.sample(plan, seeds, **given)
    spent = time.process_time() - begun
    share = accuracy(judge, torch.from_numpy(np.clip(x, -1, 1)), torch.from_numpy(labels))
    error = 100 * (share * (1 - share) / len(seeds)) ** 0.5
    print(
        f"| {name} | `{plan}` | {100 * share:.1f} ± {error:.1f} | {1000 * spent / len(seeds):.0f} |",
        flush=True,
    )
    return share


def asks(seeds: list[int], beta: float, discount: float) -> dict[str, np.ndarray]:
    """Conditions: the class of a seed is its last digit."""
    settings = np.tile(np.array([[beta, discount]], np.float32), (len(seeds), 1))
    return {"asked": np.array(seeds) % 10, "settings": settings}


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
    accuracies(judge)
    print("| who | plan | % of the asked class | CPU ms a sample |\n| --- | --- | --- | --- |")
    with load(bundle) as sampler:
        plan = f"ddpm:{STEPS}"
        tried = {
            (d, w): row(f"tuning, d {d:g}, weight {w:g}", sampler, plan, tuning, judge,
                        condition=asks(tuning, TUNED_BETA, d), guidance=Steer(w, "variance"))
            for d in DISCOUNTS for w in WEIGHTS
        }  # fmt: skip
        d, w = max(tried, key=lambda each: tried[each])
        theirs = asks(seeds, *PUBLISHED)
        row("unconditional", sampler, plan, seeds, judge, condition=theirs)
        form = published(sampler, plan)
        row("EluCD as published", sampler, plan, seeds, judge, condition=theirs, guidance=form)
        row(f"EluCD as published, beta {TUNED_BETA:g}", sampler, plan, seeds, judge,
            condition=asks(seeds, TUNED_BETA, PUBLISHED[1]), guidance=form)  # fmt: skip
        best = Steer(w, "variance")
        for beta in (PUBLISHED[0], TUNED_BETA):
            row(f"beta {beta:g}, d {d:g}, weight {w:g}", sampler, plan, seeds, judge,
                condition=asks(seeds, beta, d), guidance=best)  # fmt: skip
    with load(plain) as sampler:
        classes = {"class": np.array(seeds) % 10}
        row("classifier-free guidance 2", sampler, f"dpmpp_2m:{STEPS // 2}", seeds, judge,
            condition=classes, guidance=2.0)  # fmt: skip


if __name__ == "__main__":
    main()
