"""Fitted plans of a bundle beside the plans that they began as: error, energy, features, noise gain.

    fewstep fit bundle --steps 6 --guidance 2
    python benchmarks/fit.py bundle

PSNR in dB is against the float32 teacher of the fit, on held-out seeds: mean, 5th percentile and worst sample. Energy
is the mean square of samples relative to the teacher's, of whole samples and of their top octave. The noise gain is the
sum of the coefficients that a sample has over all predictions, without their signs. FD is taken between samples and
those of the teacher, where --samples asks for it and an extractor knows the data.
"""

import argparse
import json
import sys
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from fewstep.calibration.bodies import open_body
from fewstep.calibration.held_out import PAIRED
from fewstep.calibration.metrics import psnr
from fewstep.evaluation.distances import distance
from fewstep.evaluation.distances.features import default_features, open_extractor
from fewstep.evaluation.teacher import teacher_plan
from fewstep.fitting.blocks import Block, blocks_of, sample
from fewstep.fitting.recurrence import recurrence_of
from fewstep.fitting.teacher import taught
from fewstep.plans.file import decode
from fewstep.plans.plan import Plan
from fewstep.runtime.bundle.reading import Bundle, open_bundle
from fewstep.runtime.sampler import Sampler

SEEDS = 256
Array = NDArray[np.floating]


@dataclass(frozen=True)
class Figures:
    """One plan on one body."""

    body: str
    evaluations: int
    plan: str
    guidance: str
    psnr: float
    p5: float
    worst: float
    energy: float
    octave: float
    noise_gain: float
    frechet: float | None


def noise_gain(plan: Plan) -> float:
    """The sum of |B_j| with sample = c x_T + sum_j B_j p_j."""
    numbers = recurrence_of(plan)
    shares = np.zeros(numbers.steps)
    for i in range(numbers.steps):
        shares = shares * numbers.rows[i, 0]
        for back in range(min(i + 1, numbers.history)):
            shares[i - back] += numbers.rows[i, 1 + back]
    return float(np.abs(shares).sum())


def top_octave(samples: Array) -> Array:
    """What is left without the means of neighbours, along the last axes that have room for two."""
    rest = samples.astype(np.float64)
    low = rest
    for axis in range(2, rest.ndim):
        if rest.shape[axis] > 1:
            low = (low + np.roll(low, 1, axis)) / 2
    return np.asarray(rest - low)


def figures(
    body: str, sampler: Sampler, plan: Plan, name: str, blocks: Sequence[Block], features: int, threads: int
) -> Figures:
    """All figures of a plan, on blocks that know the teacher's samples."""
    made = np.concatenate([sample(sampler, plan, block) for block in blocks])
    exact = np.concatenate([block.taught for block in blocks])
    quality = psnr(made, exact)
    octaves = [float(np.square(top_octave(each)).mean()) for each in (made, exact)]
    manifest = sampler.bundle.manifest
    extractor = open_extractor(default_features(manifest), manifest.x_shape, threads) if features else None
    frechet = None
    if extractor is not None:
        fitted = [distance.fit(extractor.extract(each[:features])) for each in (made, exact)]
        frechet = distance.frechet(*fitted)
    return Figures(
        body=body,
        evaluations=len(plan.steps),
        plan=name,
        guidance="" if plan.guidance is None else str(plan.guidance),
        psnr=float(quality.mean()),
        p5=float(np.quantile(quality, 0.05)),
        worst=float(quality.min()),
        energy=float(np.square(made.astype(np.float64)).mean() / np.square(exact.astype(np.float64)).mean()),
        octave=octaves[0] / octaves[1],
        noise_gain=noise_gain(plan),
        frechet=frechet,
    )


def measure(bundle: Bundle, seeds: int, features: int, nominal: Sequence[str], threads: int) -> list[Figures]:
    """Each fitted plan behind its nominal one, then other nominal plans on the same seeds."""
    reference = open_body(bundle, "float32", threads)
    found = []
    for entry in bundle.manifest.fitted:
        plan = decode(bundle.read(entry.file), entry.file)
        sampler = reference if entry.body == "float32" else open_body(bundle, entry.body, threads)
        plan = sampler.compile(plan)
        began = sampler.compile(entry.nominal, plan.guidance)
        teacher = teacher_plan(reference, entry.teacher, plan)
        blocks = taught(reference, teacher, blocks_of(reference, PAIRED[:seeds]))
        others = [sampler.compile(name, plan.guidance) for name in nominal]
        for each, name in ((began, began.name), (plan, plan.name), *((other, other.name) for other in others)):
            found.append(figures(entry.body, sampler, each, name, blocks, features, threads))
    return found


def table(found: Sequence[Figures]) -> str:
    """In Markdown."""
    lines = [
        "| body | evaluations | plan | PSNR | p5 | worst | energy | top octave | noise gain | FD |",
        "|---|---|---|---|---|---|---|---|---|---|",
    ]
    for each in found:
        frechet = "" if each.frechet is None else f"{each.frechet:.2f}"
        cells = [
            f"`{each.body}`",
            str(each.evaluations),
            f"`{each.plan}`",
            *(f"{value:.1f}" for value in (each.psnr, each.p5, each.worst)),
            *(f"{value:.3f}" for value in (each.energy, each.octave)),
            f"{each.noise_gain:.1f}",
            frechet,
        ]
        lines.append("| " + " | ".join(cells) + " |")
    return "\n".join(lines)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("bundle", type=Path, help="with plans that `fewstep fit` made")
    parser.add_argument("--seeds", type=int, default=SEEDS, help="held-out seeds 0 .. seeds - 1")
    parser.add_argument("--samples", type=int, default=0, help="of the seeds, for FD; 0 for none")
    parser.add_argument("--nominal", default="", help="other plans to show beside them, with semicolons")
    parser.add_argument("--threads", type=int, default=0, help="of one call")
    parser.add_argument("--json", action="store_true", help="one document for programs")
    options = parser.parse_args()
    nominal = [name for name in options.nominal.split(";") if name]
    found = measure(open_bundle(options.bundle), options.seeds, options.samples, nominal, options.threads)
    print(json.dumps([asdict(each) for each in found], indent=1) if options.json else table(found))
    return 0


if __name__ == "__main__":
    sys.exit(main())
