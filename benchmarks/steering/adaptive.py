"""Adaptive Guidance and LinearAG (Castillo et al. 2023, arXiv 2312.12487) beside full guidance in fewer steps.

    python -m benchmarks.steering.adaptive --work FOLDER

The teacher is full guidance in 40 steps. Thresholds and coefficients come from other seeds. "per sample" ends guidance
for each sample at its own first step at the threshold, as the paper does. "frozen" ends it at one step for all.
LinearAG has the unconditional output of later steps from earlier ones. Full guidance has as many evaluations, or one
step more.
"""

import argparse
import math
import time
from pathlib import Path

import numpy as np

from benchmarks.steering.linear_ag import estimated, fitted
from fewstep.export.export import ExportOptions, export
from fewstep.fitting.published.guidance import collect, per_sample, similarities
from fewstep.plans.guidance import Cfg
from fewstep.plans.plan import Plan
from fewstep.runtime import load
from fewstep.runtime.sampler import Sampler

MODELS = {  # SOURCE, the best solver and grid of docs/measured, classes, guidance
    "fashion_mnist": ("fashion_mnist", "unipc_2:{}@arctan(power=1.5)", 10, 2.0),
}
STEPS, TEACHER = (8, 12), 40
SHARE = 0.75  # of the evaluations that are left, as in the paper


def psnr(x: np.ndarray, teacher: np.ndarray) -> np.ndarray:
    """In dB, of samples in [-1, 1]."""
    return 10 * np.log10(4 / ((x - teacher) ** 2).reshape(len(x), -1).mean(1))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--work", type=Path, required=True)
    parser.add_argument("--seeds", type=int, default=16)
    options = parser.parse_args()
    options.work.mkdir(parents=True, exist_ok=True)
    print("| model | steps | who | evaluations | PSNR to the teacher | less full guidance | CPU ms |")
    print("| --- | --- | --- | --- | --- | --- | --- |")
    for name, (source, plan, classes, weight) in MODELS.items():
        bundle = options.work / name
        if not bundle.exists():
            export(ExportOptions(source=source, output=bundle))
        with load(bundle) as sampler:
            rows(name, sampler, plan, classes, weight, options.seeds)


def rows(name: str, sampler: Sampler, plan: str, classes: int, weight: float, samples: int) -> None:
    seeds, tuning = list(range(samples)), list(range(900_000, 900_010))
    who = {"class": np.array(seeds) % classes}
    teacher = sampler.sample(plan.format(TEACHER), seeds, who, guidance=weight)
    full: dict[int, np.ndarray] = {}

    def timed(plans: list[Plan]) -> tuple[np.ndarray, float]:
        begun = time.process_time()
        x = sampler.sample(plans[0], seeds, who) if len(plans) == 1 else sampler.sample_each(plans, seeds, who)
        return psnr(x, teacher), 1000 * (time.process_time() - begun) / samples

    for steps in STEPS:
        name_of_plan = plan.format(steps)
        guided_plan = sampler.compile(name_of_plan, weight)
        state = sampler.steps(guided_plan, tuning, {"class": np.array(tuning) % classes})
        tuned = collect(guided_plan, [state])
        seen = collect(guided_plan, [sampler.steps(guided_plan, seeds, who)])
        guided = round(2 * steps * SHARE) - steps  # steps with both branches
        threshold = threshold_of(similarities(tuned), guided)
        ends = per_sample(weight, seen, threshold)
        evaluations = steps + np.mean([len(form.weight) - (form.weight[-1] == 1.0) for form in ends])
        frozen = Cfg((weight,) * guided + (1.0,))
        contenders = [
            ("per sample", evaluations, [sampler.compile(name_of_plan, form) for form in ends]),
            ("frozen", float(steps + guided), [sampler.compile(name_of_plan, frozen)]),
            ("LinearAG", float(steps + guided), [estimated(guided_plan, fitted(tuned, guided))]),
        ]
        for who_ran, count, plans in contenders:
            reached, spent = timed(plans)
            equal = math.ceil(count / 2 - 1e-6)
            if equal not in full:
                full[equal], _ = timed([sampler.compile(plan.format(equal), weight)])
            less = reached - full[equal]
            error = less.std() / math.sqrt(samples)
            print(
                f"| {name} | {steps} | {who_ran} | {count:.1f} | {reached.mean():.1f} |"
                f" {less.mean():+.1f} ± {2 * error:.1f} ({equal} steps) | {spent:.0f} |",
                flush=True,
            )


def threshold_of(cosines: np.ndarray, guided: int) -> float:
    """The threshold at which guidance takes `guided` steps in the mean. [steps, samples]"""
    levels = np.unique(cosines)
    reached = [
        np.mean(
            np.where(
                (cosines >= level).any(0),
                (cosines >= level).argmax(0) + 1,
                len(cosines),
            )
        )
        for level in levels
    ]
    return float(levels[np.argmin(np.abs(np.array(reached) - guided))])


if __name__ == "__main__":
    main()
