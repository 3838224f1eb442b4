"""Real-time chunking by gradient beside the masks, on the zoo's trained policy: a point that passes an obstacle.

    python -m benchmarks.steering.continuation --work FOLDER

A sequence is under way when the next one is sampled: its first points are decided, and the obstacle is seen a little
elsewhere. Three routes lead past it. The gradient is of Black et al. 2025 (arXiv 2506.07339): weights of equation 5,
gain min((alpha^2 + sigma^2) / alpha, clip sigma) with a clip of 5. All of a row's policies take the same steps.
`benchmarks/policy/real_time_chunking.py` steers the policy of that folder so, in its simulator.
"""

import argparse
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from benchmarks.zoo.members import BY_NAME
from fewstep.control.actions import SequenceRequest, sample_sequences
from fewstep.control.chunk import soft_mask
from fewstep.export.export import ExportOptions, export
from fewstep.export.gradient import Noisy, Of, with_gradient
from fewstep.export.spec import Spec
from fewstep.plans.guidance import Steer
from fewstep.runtime import load
from fewstep.runtime.bundle.manifest import Condition
from fewstep.runtime.sampler import Sampler

CLIP, MOVED, BAD = 5.0, 0.05, 0.1
STEER = Steer(scale="one")  # the energy has the whole gain
STEPS = (5, 10)
DECIDED = (2, 4)
END = 8  # of the weights: all points but those that are executed between two calls
Array = NDArray[np.float32]


def continues(x0: Tensor, noisy: Noisy, former: Tensor, weights: Tensor) -> Tensor:
    """Half the squared distance to the former sequence, at the gain of real-time chunking."""
    gain = torch.minimum((noisy.alpha**2 + noisy.sigma**2) / noisy.alpha, CLIP * noisy.sigma)
    energy: Tensor = 0.5 * (gain * weights[:, :, None] * (former - x0).square()).flatten(1).sum(1)
    return energy


def continuing(module: nn.Module, spec: Spec, of: Of = "x") -> tuple[nn.Module, Spec]:
    """A policy with the gradient as its second output, and two conditions: the former sequence, and its weights."""
    former = Condition("former", "former", spec.x_shape, "float32", typical=(-1.0, 1.0))
    weights = Condition("weights", "weights", spec.x_shape[:1], "float32", typical=(0.0, 1.0))
    return with_gradient(module, spec, continues, (former, weights), of)


def make() -> tuple[nn.Module, Spec]:
    """What export calls."""
    return continuing(*BY_NAME["policy_unet1d"].recipe().make())


def routes(seen: Array) -> NDArray[np.float64]:
    """The three paths [B, 3, 16, 2] of observations [B, 6]."""
    recipe = BY_NAME["policy_unet1d"].recipe()
    each = [recipe.paths(torch.from_numpy(seen), torch.full((len(seen),), above)) for above in recipe.ROUTES]
    return torch.stack(each, 1).double().numpy()


def nearest(x: Array, seen: Array) -> tuple[NDArray[np.int64], NDArray[np.float64]]:
    """The route of each sequence [B, 16, 2], and its distance from it, in the root mean square of a point."""
    away = np.sqrt(((x[:, None] - routes(seen)) ** 2).sum(-1).mean(-1))
    return away.argmin(1), away.min(1)


def seam(x: Array, former: Array, decided: int) -> float:
    """The change of velocity where the decided points end, in the mean."""
    path = np.concatenate([former[:, :decided], x[:, decided:]], 1)
    return float(np.linalg.norm(np.diff(path, 2, axis=1)[:, decided - 2 : decided], axis=-1).mean())


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--work", type=Path, required=True)
    parser.add_argument("--seeds", type=int, default=200)
    options = parser.parse_args()
    options.work.mkdir(parents=True, exist_ok=True)
    plain, steered = options.work / "policy", options.work / "continuing"
    for bundle, source in (
        (plain, BY_NAME["policy_unet1d"].source),
        (steered, f"{Path(__file__)}:make"),
    ):
        if not bundle.exists():
            export(ExportOptions(source=source, output=bundle))
    recipe = BY_NAME["policy_unet1d"].recipe()
    count, rng = options.seeds, np.random.default_rng(11)
    low, high = np.array(recipe.LOW), np.array(recipe.HIGH)
    before = rng.uniform(low, high, (count, 6)).astype(np.float32)
    seen = (before + MOVED * (high - low) * rng.uniform(-1, 1, before.shape)).astype(np.float32)
    print("| steps | decided | who | same route % | seam | off the path, rms | bad % | CPU ms |")
    print("| --- | --- | --- | --- | --- | --- | --- | --- |")
    with load(plain) as masks, load(steered) as gradient:
        former = masks.sample("dpmpp_2m:20", list(range(count)), {"observation": before[:, None]})
        under_way, _ = nearest(former, before)
        for steps in STEPS:
            for decided in DECIDED:
                weights = np.repeat(soft_mask(decided, END, 16)[None], count, 0)
                more = {"former": former, "weights": weights}
                for name, run in contenders(masks, gradient, steps, decided, seen, former, more):
                    begun = time.process_time()
                    x = run()
                    spent = 1000 * (time.process_time() - begun) / count
                    route, away = nearest(x, seen)
                    same, bad = 100 * (route == under_way).mean(), 100 * (away > BAD).mean()
                    print(
                        f"| {steps} | {decided} | {name} | {same:.1f} | {seam(x, former, decided):.3f} |"
                        f" {away.mean():.3f} | {bad:.1f} | {spent:.1f} |",
                        flush=True,
                    )


def contenders(
    masks: Sampler,
    gradient: Sampler,
    steps: int,
    decided: int,
    seen: Array,
    former: Array,
    more: dict[str, Array],
) -> list[tuple[str, Callable[[], Array]]]:
    """Names, and what samples [B, 16, 2]."""
    plan = f"ddim:{steps}"
    seeds = range(10_000, 10_000 + len(seen))

    def requests(names: tuple[str, ...] = ()) -> list[SequenceRequest]:
        return [
            SequenceRequest(
                {"observation": seen[i : i + 1]} | {name: more[name][i] for name in names},
                seed,
                former[i],
                decided,
            )
            for i, seed in enumerate(seeds)
        ]

    steering = gradient.compile(plan, STEER)
    names = ("former", "weights")
    return [
        ("none", lambda: sample_sequences(masks, plan, requests(), "none")[0]),
        ("hard", lambda: sample_sequences(masks, plan, requests(), "hard")[0]),
        ("soft", lambda: sample_sequences(masks, plan, requests(), "soft")[0]),
        (
            "gradient",
            lambda: sample_sequences(gradient, steering, requests(names), "none")[0],
        ),
        (
            "gradient, hard",
            lambda: sample_sequences(gradient, steering, requests(names), "hard")[0],
        ),
    ]


if __name__ == "__main__":
    main()
