"""DPS and PiGDM beside exact posteriors: y = A x + noise, of normal data and of a mixture of two normal clouds.

    python -m benchmarks.steering.posterior --work FOLDER

The denoisers are exact. DPS (Chung et al. 2023, arXiv 2209.14687) moves each new state by zeta h / norm(residual), with
the best of five zetas on other noise. PiGDM (Song et al. 2023, "Pseudoinverse-guided diffusion models") takes the
data's variance, 1, for p(x0 | x). The third energy has the variance of a cloud there. Of each the mean's
distance from the exact one is printed, over its length, and the share of samples in the upper cloud.
"""

import argparse
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn

from fewstep.export.export import ExportOptions, export
from fewstep.export.gradient import Noisy, with_gradient
from fewstep.export.spec import Spec
from fewstep.plans.guidance import Steer
from fewstep.plans.spec import ScheduleSpec
from fewstep.plans.transforms import own_noise
from fewstep.runtime import load
from fewstep.runtime.bundle.manifest import Condition
from fewstep.runtime.sampler import Sampler

SIZE, NOISE = 4, 0.5
MEASUREMENT = np.array([0.5, 0.2], np.float32)
ZETAS = (0.25, 0.5, 1.0, 2.0, 4.0)  # over the number of steps
MATRIX = np.array([[1.0, 0.5, 0.0, 0.0], [0.0, 0.5, -1.0, 0.0]], np.float32)
CENTRE = np.array([1.2, 0.8, -0.4, 1.0], np.float32)  # of one cloud; the other lies opposite
SPREAD = 0.5  # of a cloud
MEASURED = Condition("measured", "measured", (2,), "float32", typical=(-2.0, 2.0))
SPEC = Spec("clouds", (SIZE,), (), "flow", ScheduleSpec("flow", timesteps=1))


class Clouds(nn.Module):
    """The flow of data in clouds of one spread around centres [n, 4]."""

    def __init__(self, centres: np.ndarray, spread: float) -> None:
        super().__init__()
        self.register_buffer("centres", torch.from_numpy(centres))
        self.spread = spread

    def forward(self, x: Tensor, time: Tensor) -> Tensor:
        sigma, alpha = time[:, None], 1 - time[:, None]
        variance = (alpha * self.spread) ** 2 + sigma**2
        away = x[:, None] - alpha[:, None] * self.centres
        share = torch.softmax(-0.5 * away.square().sum(-1) / variance, dim=1)[..., None]
        x0 = (share * (self.centres + (alpha * self.spread**2 / variance)[:, None] * away)).sum(1)
        return (share * (sigma / variance)[:, None] * away).sum(1) - x0


def residual(x0: Tensor, noisy: Noisy, measured: Tensor) -> Tensor:
    energy: Tensor = 0.5 * (measured - x0 @ torch.from_numpy(MATRIX).T).square().sum(1)
    return energy


def pseudo_inverse(x0: Tensor, noisy: Noisy, measured: Tensor, spread: float = 1.0) -> Tensor:
    """-log N(y; A x0, r^2 A A^T + noise^2), with r^2 the variance of x0 given x for data of this spread."""
    matrix = torch.from_numpy(MATRIX)
    variance = (noisy.sigma * spread) ** 2 / ((noisy.alpha * spread) ** 2 + noisy.sigma**2)
    covariance = variance[:, :, None] * (matrix @ matrix.T) + NOISE**2 * torch.eye(2)
    (a, b), (_, d) = covariance[:, 0].unbind(1), covariance[:, 1].unbind(1)
    left, right = (measured - x0 @ matrix.T).unbind(1)
    return 0.5 * (d * left**2 - 2 * b * left * right + a * right**2) / (a * d - b * b)


def narrow(x0: Tensor, noisy: Noisy, measured: Tensor) -> Tensor:
    return pseudo_inverse(x0, noisy, measured, SPREAD)


def normal() -> nn.Module:
    return Clouds(np.zeros((1, SIZE), np.float32), 1.0)


def mixture() -> nn.Module:
    return Clouds(np.stack([CENTRE, -CENTRE]), SPREAD)


def normal_dps() -> tuple[nn.Module, Spec]:
    return with_gradient(normal(), SPEC, residual, (MEASURED,), normalise="residual")


def normal_pigdm() -> tuple[nn.Module, Spec]:
    return with_gradient(normal(), SPEC, pseudo_inverse, (MEASURED,))


def mixture_dps() -> tuple[nn.Module, Spec]:
    return with_gradient(mixture(), SPEC, residual, (MEASURED,), normalise="residual")


def mixture_pigdm() -> tuple[nn.Module, Spec]:
    return with_gradient(mixture(), SPEC, pseudo_inverse, (MEASURED,))


def mixture_narrow() -> tuple[nn.Module, Spec]:
    return with_gradient(mixture(), SPEC, narrow, (MEASURED,))


def exact(centres: np.ndarray, spread: float, y: np.ndarray) -> tuple[np.ndarray, float]:
    """The posterior's mean, and the mass of the first cloud."""
    covariance = spread**2 * MATRIX @ MATRIX.T + NOISE**2 * np.eye(2)
    away = y - centres @ MATRIX.T
    fits = -0.5 * np.einsum("ki,ij,kj->k", away, np.linalg.inv(covariance), away)
    shares = np.exp(fits - fits.max()) / np.exp(fits - fits.max()).sum()
    means = centres + spread**2 * np.linalg.solve(covariance, away.T).T @ MATRIX
    return shares @ means, float(shares[0])


def zetas(sampler: Sampler, plan: str, zeta: float) -> Steer:
    """A DPS step of zeta on each new state of DDIM, as a shift of x0."""
    times = [(step.alpha, step.sigma) for step in sampler.compile(plan).steps]
    after = [*times[1:], (1.0, 0.0)]
    return Steer(
        tuple(zeta / (b - a * r / s) for (a, s), (b, r) in zip(times, after, strict=True)),
        "one",
    )


def judged(
    sampler: Sampler, plan: str, guidance: Steer, seed: int, count: int, mean: np.ndarray
) -> tuple[float, float]:
    """The error of the mean over its length, and the share of samples in the upper cloud."""
    half = np.random.default_rng(seed).standard_normal((count // 2, SIZE), np.float32)
    noise = np.concatenate([half, -half])  # pairs, whose means vary less
    rows = {"measured": np.repeat(MEASUREMENT[None], len(noise), 0)}
    compiled = own_noise(sampler.compile(plan, guidance))
    x = sampler.sample(compiled, list(range(len(noise))), rows, given={"noise": noise})
    return float(np.linalg.norm(x.mean(0) - mean) / np.linalg.norm(mean)), float((x @ CENTRE > 0).mean())


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--work", type=Path, required=True)
    parser.add_argument("--seeds", type=int, default=8_000)
    options = parser.parse_args()
    options.work.mkdir(parents=True, exist_ok=True)
    print("| data | who | steps | error of the mean % | mass of the upper cloud (exact) |")
    print("| --- | --- | --- | --- | --- |")
    for data, energies in (("normal", ("dps", "pigdm")), ("mixture", ("dps", "pigdm", "narrow"))):
        centres, spread = (np.zeros((1, SIZE)), 1.0) if data == "normal" else (np.stack([CENTRE, -CENTRE]), SPREAD)
        mean, mass = exact(centres, spread, MEASUREMENT)
        for energy in energies:
            bundle = options.work / f"{data}_{energy}"
            if not bundle.exists():
                export(ExportOptions(source=f"{Path(__file__)}:{data}_{energy}", output=bundle))
            with load(bundle) as sampler:
                for steps in (10, 50):
                    plan, guidance = f"ddim:{steps}", Steer()
                    if energy == "dps":
                        forms = [zetas(sampler, plan, zeta / steps) for zeta in ZETAS]
                        errors = [judged(sampler, plan, form, 1, options.seeds, mean)[0] for form in forms]
                        guidance = forms[int(np.argmin(errors))]
                    error, share = judged(sampler, plan, guidance, 0, options.seeds, mean)
                    shown = "" if data == "normal" else f"{share:.3f} ({mass:.3f})"
                    print(f"| {data} | {energy} | {steps} | {100 * error:.1f} | {shown} |", flush=True)


if __name__ == "__main__":
    main()
