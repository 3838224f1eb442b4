"""Fitted plans of bundles beside the best plans without a fit, on the same held-out seeds.

    fewstep fit bundle --steps 6 --guidance 2
    python benchmarks/fit.py bundle --nominal-work nominal    # measures, and writes docs/measured/fitting.md
    python benchmarks/fit.py                                  # writes the page from what was measured

Judgements are kept in docs/measured/fitting.json, and no plan is judged twice. PSNR in dB is against the float32
teacher of the fit. Energy is the mean square of samples relative to the teacher's, of whole samples and of their top
octave. The noise gain is the sum of the coefficients that a sample has over all predictions, without their signs. FD is
taken between samples and those of the teacher, where --samples asks for it and an extractor knows the data. The folder
--nominal-work is of `benchmarks/nominal.py`: its best plan for each number of evaluations is judged too.
"""

import argparse
import sys
from collections.abc import Iterable, Sequence
from hashlib import sha256
from pathlib import Path

import msgspec
import numpy as np
from fit_page import PAGE, Judged, Judgement, page
from numpy.typing import NDArray

from fewstep.calibration.bodies import open_body
from fewstep.calibration.held_out import PAIRED
from fewstep.calibration.metrics import psnr
from fewstep.evaluation.distances import distance
from fewstep.evaluation.distances.features import default_features, open_extractor
from fewstep.evaluation.teacher import teacher_plan
from fewstep.fitting.blocks import Block, blocks_of, sample
from fewstep.fitting.recurrence import recurrence_of
from fewstep.fitting.rollouts import Rollouts
from fewstep.fitting.teacher import taught
from fewstep.plans.file import decode, encode
from fewstep.plans.guidance import describe
from fewstep.plans.plan import Plan
from fewstep.runtime.bundle.reading import Bundle, open_bundle
from fewstep.runtime.sampler import Sampler

SEEDS = 256
KEPT = PAGE.with_suffix(".json")
Array = NDArray[np.floating]


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


def judged(
    sampler: Sampler, plan: Plan, name: str, body: str, began: Plan | None, blocks: Sequence[Block], features: int
) -> Judged:
    """All figures of a plan, on blocks that know the teacher's samples. `began` is what a fitted plan began as."""
    made = np.concatenate([sample(sampler, plan, block) for block in blocks])
    exact = np.concatenate([block.taught for block in blocks])
    octaves = [float(np.square(top_octave(each)).mean()) for each in (made, exact)]
    manifest = sampler.bundle.manifest
    extractor = open_extractor(default_features(manifest), manifest.x_shape, 0) if features else None
    frechet = None
    if extractor is not None:
        seen = [distance.fit(extractor.extract(each[:features])) for each in (made, exact)]
        frechet = distance.frechet(*seen)
    return Judged(
        plan=name,
        body=body,
        digest=_digest(plan),
        began=None if began is None else began.name,
        method=None if plan.fitted is None else plan.fitted.method,
        evaluations=len(plan.steps),
        psnr=tuple(round(float(each), 3) for each in psnr(made, exact)),
        energy=float(np.square(made.astype(np.float64)).mean() / np.square(exact.astype(np.float64)).mean()),
        octave=octaves[0] / octaves[1],
        noise_gain=noise_gain(plan),
        frechet=frechet,
        told=tuple(step.time for step in plan.steps),
        told_before=() if began is None else tuple(step.time for step in began.steps),
    )


def measure(
    bundle: Bundle,
    denoiser: str,
    seeds: int,
    features: int,
    nominal: Iterable[str],
    threads: int,
    so_far: Judgement | None,
) -> Judgement:
    """All fitted plans of a bundle for one guidance, the plans that they began as, and others."""
    entries = bundle.manifest.fitted
    plans = [decode(bundle.read(entry.file), entry.file) for entry in entries]
    guidance = plans[0].guidance
    samplers = {body: open_body(bundle, body, threads) for body in {"float32", *(entry.body for entry in entries)}}
    reference = samplers["float32"]
    asked: list[tuple[str, Plan, str, Plan | None]] = []
    for entry, plan in zip(entries, plans, strict=True):
        if plan.guidance == guidance:
            sampler = samplers[entry.body]
            began = sampler.compile(entry.nominal, guidance)
            asked += [(entry.body, began, began.name, None), (entry.body, sampler.compile(plan), plan.name, began)]
    asked += [("float32", plan, plan.name, None) for plan in (reference.compile(name, guidance) for name in nominal)]
    teacher = teacher_plan(reference, None, plans[0])
    blocks = taught(Rollouts(reference, reference), teacher, blocks_of(reference, PAIRED[:seeds]))
    kept = () if so_far is None else tuple(each for each in so_far.plans if len(each.psnr) == seeds)
    found = []
    for body, plan, name, began in asked:
        same = (each for each in kept if (each.body, each.plan, each.digest) == (body, name, _digest(plan)))
        known = next(same, None) or judged(samplers[body], plan, name, body, began, blocks, features)
        found.append(known)
        print(f"{denoiser}, {body}: {name} {known.mean:.2f} dB", file=sys.stderr, flush=True)
    plans_of = {(each.body, each.plan, each.method): each for each in (*kept, *found)}
    used = "no guidance" if guidance is None else f"guidance {describe(guidance)}"
    return Judgement(denoiser, used, teacher.name, tuple(plans_of.values()))


def best_nominal(work: Path, denoiser: str) -> list[str]:
    """The best plan for each number of evaluations, of a search by `benchmarks/nominal.py`."""
    names = []
    for file in sorted(work.glob(f"{denoiser}-*/found.json")):
        for found in msgspec.json.decode(file.read_bytes()).values():
            scores = [each for each in (*found["best"], *found["named"]) if each is not None]
            names.append(max(scores, key=lambda each: float(each["psnr"]))["plan"])
    return list(dict.fromkeys(names))


def judgements() -> dict[str, Judgement]:
    """What was measured so far, by denoiser."""
    if not KEPT.exists():
        return {}
    return {each.denoiser: each for each in msgspec.json.decode(KEPT.read_bytes(), type=list[Judgement])}


def _digest(plan: Plan) -> str:
    """Of a plan's numbers: its name, and the body that it was fitted to, are no part of them."""
    return sha256(encode(msgspec.structs.replace(plan, name="", fitted=None))).hexdigest()[:16]


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("bundles", nargs="*", type=Path, help="with plans that `fewstep fit` made")
    parser.add_argument("--seeds", type=int, default=SEEDS, help="held-out seeds 0 .. seeds - 1")
    parser.add_argument("--samples", type=int, default=0, help="of the seeds, for FD; 0 for none")
    parser.add_argument("--nominal", default="", help="other plans to show beside them, with semicolons")
    parser.add_argument("--nominal-work", type=Path, help="the --work of benchmarks/nominal.py")
    parser.add_argument("--threads", type=int, default=0, help="of one call")
    parser.add_argument("--print", action="store_true", dest="only_print", help="leave the docs as they are")
    options = parser.parse_args()
    known = judgements()
    for path in options.bundles:
        bundle, denoiser = open_bundle(path), path.resolve().name
        nominal = [name for name in options.nominal.split(";") if name]
        if options.nominal_work is not None:
            nominal += best_nominal(options.nominal_work, denoiser)
        so_far = known.get(denoiser)
        known[denoiser] = measure(bundle, denoiser, options.seeds, options.samples, nominal, options.threads, so_far)
        if not options.only_print:
            lines = b",\n".join(msgspec.json.encode(each) for each in known.values())
            KEPT.write_bytes(b"[\n" + lines + b"\n]\n")
    text = page(list(known.values()))
    print(text)
    if not options.only_print:
        PAGE.write_text(text)
    return 0


if __name__ == "__main__":
    sys.exit(main())
