"""Forecasts by an unconditional denoiser of series, beside what holds the observed part, and the exact forecast.

    python -m benchmarks.steering.tsdiff --work FOLDER

TSDiff (Kollovieh et al. 2023, arXiv 2307.11494) steers by the observed part: E is the quantile loss of the predicted
sample there, with the level (k + 1) / (S + 1) for sample k of S, or the square error. Its DDIM moves the noise by
-sqrt(1 - abar) s h with h = -dE/dx. That is x0 + s sigma^2/alpha h, which `Steer(s)` adds. Their default sampler, DDPM,
has h at the next state, in an evaluation of its own, and is not here. "refined" is their most
likely refinement of a seasonal naive forecast: 20 gradient steps of rate 0.1 on |eps - eps(x_t)|^2 at one time, and on
the loss.

The series are normal given one of three kinds, so the exact forecast is known. CRPS is of samples, over the mean
absolute value. The scale s is the best of three on other series.
"""

import argparse
import time
from collections.abc import Callable
from functools import cache
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from benchmarks.steering.series import CONTEXT, LENGTH, PERIODS, covariances, drawn
from benchmarks.steering.series import make as unconditional
from fewstep.export.export import ExportOptions, export
from fewstep.export.gradient import Noisy, with_gradient
from fewstep.export.spec import Spec
from fewstep.plans.errors import UserError
from fewstep.plans.guidance import Steer
from fewstep.plans.transforms import tail, time_travel
from fewstep.runtime import load
from fewstep.runtime.backends.onnxruntime import OnnxRuntime
from fewstep.runtime.bundle.manifest import Condition
from fewstep.runtime.execute import Hold
from fewstep.runtime.sampler import Sampler

Array = NDArray[np.float32]
SCALES = (0.25, 1.0, 4.0)
SEASON = PERIODS[0]  # of the naive forecast
ITERATIONS, RATE = 20, 0.1  # of the refinement, as the authors' files have them
STEPS = 20
OBSERVED = Condition("observed", "observed", (1, LENGTH), "float32", typical=(-1.0, 1.0))
LEVEL = Condition("level", "level", (1,), "float32", typical=(0.1, 0.9))
NOISE = Condition("noise", "noise", (1, LENGTH), "float32", typical=(-1.0, 1.0))


def quantile(x0: Tensor, noisy: Noisy, observed: Tensor, level: Tensor) -> Tensor:
    away = (observed - x0)[:, 0, :CONTEXT]
    loss: Tensor = (0.5 * away.abs() + (level - 0.5) * away).sum(1)  # max(q e, (q - 1) e)
    return loss


def square(x0: Tensor, noisy: Noisy, observed: Tensor) -> Tensor:
    loss: Tensor = (observed - x0)[:, 0, :CONTEXT].square().sum(1)
    return loss


def mismatch(x0: Tensor, noisy: Noisy, noise: Tensor) -> Tensor:
    """Of the noise that x was made with and the predicted one."""
    loss: Tensor = ((noisy.x - noisy.alpha * x0) / noisy.sigma - noise).square().flatten(1).sum(1)
    return loss


def by_quantile() -> tuple[nn.Module, Spec]:
    return with_gradient(*unconditional(), quantile, (OBSERVED, LEVEL))


def by_square() -> tuple[nn.Module, Spec]:
    return with_gradient(*unconditional(), square, (OBSERVED,))


def refining() -> tuple[nn.Module, Spec]:
    return with_gradient(*unconditional(), mismatch, (NOISE,))


class Problem:
    """Series [N, LENGTH] to forecast with S samples each, as rows [N S, 1, LENGTH] of what is observed."""

    def __init__(self, count: int, samples: int, seed: int) -> None:
        self.series = drawn(count, torch.Generator().manual_seed(seed)).numpy()[:, 0]
        self.samples = samples
        self.seeds = list(range(1_000 * seed, 1_000 * seed + count * samples))
        self.observed = np.repeat(self.series[:, None], samples, 0)
        self.observed[:, :, CONTEXT:] = 0
        self.levels = np.tile((np.arange(samples, dtype=np.float32) + 1) / (samples + 1), count)[:, None]
        self.known = (np.arange(LENGTH) < CONTEXT).astype(np.float32)[None, None]

    def crps(self, x: Array) -> NDArray[np.float64]:
        """Of each series, from rows [N S, 1, LENGTH], over the mean absolute value of all."""
        truth = self.series[:, None, CONTEXT:].astype(np.float64)
        samples = x.reshape(len(truth), -1, LENGTH)[:, :, CONTEXT:].astype(np.float64)
        spread = np.abs(samples[:, :, None] - samples[:, None]).mean((1, 2))
        each: NDArray[np.float64] = np.abs(samples - truth).mean(1) - spread / 2
        return each.mean(1) / np.abs(truth).mean()

    def naive(self) -> Array:
        """The last season again."""
        x = self.observed.copy()
        x[:, :, CONTEXT:] = x[:, :, CONTEXT - SEASON : CONTEXT][:, :, np.arange(LENGTH - CONTEXT) % SEASON]
        return x

    def exact(self) -> Array:
        """Samples of the posterior: a kind by its likelihood, then the rest given the observed part."""
        rng = np.random.default_rng(0)
        x = self.observed.astype(np.float64)
        seen = self.series[:, :CONTEXT].astype(np.float64)
        parts = []
        for covariance in covariances():
            inverse = np.linalg.inv(covariance[:CONTEXT, :CONTEXT])
            gain = covariance[CONTEXT:, :CONTEXT] @ inverse
            rest = covariance[CONTEXT:, CONTEXT:] - gain @ covariance[:CONTEXT, CONTEXT:]
            likelihood = -0.5 * np.einsum("ni,ij,nj->n", seen, inverse, seen)
            likelihood -= 0.5 * np.linalg.slogdet(covariance[:CONTEXT, :CONTEXT])[1]
            parts.append((likelihood, seen @ gain.T, np.linalg.cholesky(rest + 1e-9 * np.eye(len(rest)))))
        likelihoods = np.stack([part[0] for part in parts], 1)
        shares = np.exp(likelihoods - likelihoods.max(1, keepdims=True))
        for row in range(len(x)):
            series = row // self.samples
            _, means, factor = parts[rng.choice(len(parts), p=shares[series] / shares[series].sum())]
            x[row, 0, CONTEXT:] = means[series] + factor @ rng.standard_normal(LENGTH - CONTEXT)
        return x.astype(np.float32)


def refined(sampler: Sampler, problem: Problem, by_levels: bool) -> Array:
    """The most likely refinement of the naive forecast, each sample with noise of its own."""
    plan = tail(sampler.compile("ddim:5", Steer()), 4)  # its last step, at timestep 19 of 100
    (step,) = plan.steps
    start = problem.naive()
    y, rng = start.copy(), np.random.default_rng(1)
    for _ in range(ITERATIONS):
        noise = rng.standard_normal(y.shape, np.float32)
        x = step.alpha * y + step.sigma * noise
        state = next(sampler.steps(plan, problem.seeds, {"noise": noise}, given={"row0": x.astype(np.float32)}))
        away = start - y
        if by_levels:
            level = problem.levels[:, :, None]
            prior = np.where(away > 0, -level, np.where(away < 0, 1 - level, 0.5 - level))
        else:
            prior = -2 * away * problem.known
        y = (y - RATE * (prior - step.alpha * state.outputs[1])).astype(np.float32)
    return y


def contenders(opened: Callable[[str], Sampler]) -> dict[str, Callable]:
    """What forecasts, with a scale, by its name; those with "tuned" have one to choose."""
    plain = opened("series.py:make")

    def held(plan: str, fresh: bool = False, repeats: int = 1) -> Callable:
        compiled = plain.compile(plan)
        compiled = compiled if repeats == 1 else time_travel(compiled, repeats)
        return lambda p, s: plain.sample(compiled, p.seeds, hold=Hold(p.observed, p.known, fresh=fresh))

    def steered(source: str, names: tuple[str, ...]) -> Callable:
        def run(p: Problem, s: float) -> Array:
            values = {"observed": p.observed, "level": p.levels}
            asked = {name: values[name] for name in names}
            return opened(source).sample(f"ddim:{STEPS}", p.seeds, asked, guidance=Steer(s))

        return run

    return {
        f"hold, `ddim:{STEPS}`": held(f"ddim:{STEPS}"),
        f"hold, `ddim:{3 * STEPS}`": held(f"ddim:{3 * STEPS}"),
        f"RePaint, `ddpm:{STEPS}`, 3 times": held(f"ddpm:{STEPS}", fresh=True, repeats=3),
        f"TSDiff, quantiles, `ddim:{STEPS}`, tuned": steered("tsdiff.py:by_quantile", ("observed", "level")),
        f"TSDiff, squares, `ddim:{STEPS}`, tuned": steered("tsdiff.py:by_square", ("observed",)),
        "refined naive, quantiles": lambda p, s: refined(opened("tsdiff.py:refining"), p, True),
        "refined naive, squares": lambda p, s: refined(opened("tsdiff.py:refining"), p, False),
    }


def missed(tuning: Problem, run: Callable, scale: float) -> float:
    """The score on the series of the tuning; infinite where the samples are not finite."""
    try:
        return float(tuning.crps(run(tuning, scale)).mean())
    except UserError:
        return np.inf


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--work", type=Path, required=True)
    parser.add_argument("--series", type=int, default=24)
    parser.add_argument("--samples", type=int, default=8)
    options = parser.parse_args()
    options.work.mkdir(parents=True, exist_ok=True)

    @cache
    def opened(source: str) -> Sampler:
        bundle = options.work / source.partition(":")[2]
        if not (bundle / "manifest.json").exists():
            export(ExportOptions(source=f"{Path(__file__).parent / source}", output=bundle))
        return load(bundle, backend=OnnxRuntime(threads=1))

    tuning, problem = Problem(6, 8, 2), Problem(options.series, options.samples, 1)
    print("| who | scale | CRPS | less the first hold | CPU ms a sample |\n| --- | --- | --- | --- | --- |")
    baseline: NDArray[np.float64] | None = None
    for name, x in (("exact", problem.exact()), ("seasonal naive", problem.naive())):
        print(f"| {name} | | {problem.crps(x).mean():.3f} | | |", flush=True)
    for name, run in contenders(opened).items():
        scale = 0.0
        if "tuned" in name:
            errors = [missed(tuning, run, s) for s in SCALES]
            scale = SCALES[int(np.argmin(errors))]
        begun = time.process_time()
        x = run(problem, scale)
        spent = 1000 * (time.process_time() - begun) / len(x)
        each = problem.crps(x)
        baseline = each if baseline is None else baseline
        less, shown = each - baseline, f"{scale:g}" if scale else ""
        error = 2 * less.std() / len(less) ** 0.5
        print(f"| {name} | {shown} | {each.mean():.3f} | {less.mean():+.3f} ± {error:.3f} | {spent:.1f} |", flush=True)


if __name__ == "__main__":
    main()
