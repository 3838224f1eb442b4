"""Fitted plans of bundles next to the best plans without a fit, on seeds that no fit and no gate has seen.

    fewstep fit bundle --steps 6 --guidance 2                          # to float32; int8 bodies are judged along it too
    python -m benchmarks.fits.fit bundle --nominal-work nominal        # measures, and writes lab/measured/fitting.md
    python -m benchmarks.fits.fit                                      # writes the page from what was measured

Each figure is kept in lab/measured/fitting.json as soon as it is known, and no plan is judged twice: an interrupted
call goes on. PSNR in dB is against the float32 teacher of the fit. FD is taken between samples and those of the teacher
from the same seeds, where an extractor knows the data and the seeds are enough. The folder --nominal-work is of
`benchmarks/best_plans.py`: its best plans for each number of evaluations are judged too.
"""

import argparse
import sys
from collections.abc import Iterable, Iterator, Mapping
from hashlib import sha256
from pathlib import Path

import msgspec
import numpy as np
from numpy.typing import NDArray

from benchmarks.fits.fit_judgement import GATED, Judged, Judgement
from benchmarks.fits.fit_page import PAGE, page
from benchmarks.options import parser_of, refusing
from benchmarks.result_store import read_rows, write_rows
from fewstep.fitting.blocks import make_blocks
from fewstep.fitting.rollouts import FitSampler
from fewstep.fitting.teacher_samples import add_teacher_samples
from fewstep.measure.distances import frechet
from fewstep.measure.distances.features import Extractor, default_extractor, open_extractor
from fewstep.measure.open_body import open_body
from fewstep.measure.rollouts.metrics import psnr
from fewstep.measure.rollouts.seeds import PAIRED
from fewstep.measure.teacher import teacher_plan
from fewstep.plans.errors import UserError
from fewstep.plans.file import decode, encode
from fewstep.plans.guidance import describe
from fewstep.plans.plan import Plan
from fewstep.runtime.bundle.networks import common_bodies
from fewstep.runtime.bundle.reading import Bundle, open_bundle
from fewstep.runtime.sampling.sampler import Sampler

JUDGES = PAIRED[GATED:]
SEEDS = 256
FEWEST = 128  # seeds that FD is taken of: two for each of 64 features
RESAMPLES = 100
KEPT = PAGE.with_suffix(".json")
Array = NDArray[np.floating]


def distances(extractor: Extractor, made: Array, exact: Array) -> tuple[float, ...]:
    """FD of samples to others from the same seeds, then of RESAMPLES draws of the seeds, which are the same draws for
    any two plans."""
    features = [extractor.extract(each) for each in (made, exact)]
    rng = np.random.default_rng(0)
    draws = [np.arange(len(made)), *rng.integers(len(made), size=(RESAMPLES, len(made)))]
    found = [frechet.frechet_distance(*(frechet.fit_gaussian(feature[rows]) for feature in features)) for rows in draws]
    return tuple(round(each, 4) for each in found)


class Judge:
    """The bodies of one bundle, and the teacher's samples, for plans with the guidance of `like`."""

    def __init__(self, bundle: Bundle, like: Plan, seeds: int, threads: int) -> None:
        self.samplers = {body: open_body(bundle, body, threads) for body in common_bodies(bundle.manifest)}
        reference = self.samplers["float32"]
        self.teacher = teacher_plan(reference, None, like)
        self.blocks = add_teacher_samples(
            FitSampler(reference, reference), self.teacher, make_blocks(reference, JUDGES[:seeds])
        )
        self.exact = np.concatenate([block.required_target for block in self.blocks])
        self.extractor = None
        if seeds >= FEWEST:
            self.extractor = open_extractor(default_extractor(bundle.manifest), bundle.manifest.x_shape, threads)

    def judge_plan(self, plan: Plan, name: str, body: str) -> Judged:
        """All figures of a plan."""
        sampler = self.samplers[body]
        made = np.concatenate([block.sample(sampler, plan) for block in self.blocks])
        return Judged(
            plan=name,
            body=body,
            digest=self.digest(plan, body),
            method=None if plan.fitted is None else plan.fitted.method,
            evaluations=len(plan.steps),
            psnr=tuple(round(float(each), 3) for each in psnr(made, self.exact)),
            frechet=() if self.extractor is None else distances(self.extractor, made, self.exact),
        )

    def digest(self, plan: Plan, body: str) -> str:
        """A hash of all that determines the figures, except a plan's name and the body that it was fitted to."""
        numbers = encode(msgspec.structs.replace(plan, name="", fitted=None))
        graph = _graph(self.samplers[body])
        facts = (numbers, graph, encode(self.teacher), [block.seeds for block in self.blocks], self.extractor is None)
        return sha256(repr(facts).encode()).hexdigest()[:16]


def measure(
    bundle: Bundle, denoiser: str, seeds: int, nominal: Iterable[str], threads: int, so_far: Judgement | None
) -> Iterator[Judgement]:
    """Yield the results after each plan: all plans that were fitted to float32 for one guidance, on every body,
    their start plans, and others.
    """
    entries = [entry for entry in bundle.manifest.fitted if entry.body == "float32"]
    if not entries:
        raise UserError(f"{denoiser} has no fitted plan", "make one: fewstep fit")
    if any(entry.seeds > GATED for entry in entries):
        raise UserError(f"a gate of {denoiser} has seen seeds of the verdict", f"fit with --judge-seeds up to {GATED}")
    plans = [decode(bundle.read(entry.file), entry.file) for entry in entries]
    guidance = plans[0].guidance
    weight = 1.0 if guidance is None else guidance
    judge = Judge(bundle, plans[0], seeds, threads)
    reference = judge.samplers["float32"]
    asked: list[tuple[str, Plan, str]] = []
    for entry, plan in zip(entries, plans, strict=True):
        if plan.guidance == guidance:
            began = reference.compile(entry.nominal, weight)
            asked.append(("float32", began, began.name))
            asked += [(body, sampler.compile(plan), plan.name) for body, sampler in judge.samplers.items()]
    asked += [("float32", each, each.name) for each in (reference.compile(name, weight) for name in nominal)]
    used = "no guidance" if guidance is None else f"guidance {describe(guidance)}"
    found = Judgement(denoiser, used, judge.teacher.name, ())
    if so_far is not None and msgspec.structs.replace(so_far, plans=()) == found:
        found = msgspec.structs.replace(so_far, plans=tuple(p for p in so_far.plans if len(p.psnr) == seeds))
    for body, asked_for, name in asked:
        key = body, name, judge.digest(asked_for, body)
        known = next((each for each in found.plans if (each.body, each.plan, each.digest) == key), None)
        known = known or judge.judge_plan(asked_for, name, body)
        others = (e for e in found.plans if (e.body, e.plan, e.method) != (body, name, known.method))
        found = msgspec.structs.replace(found, plans=(*others, known))
        print(f"{denoiser}, {body}: {name} {known.mean:.2f} dB", file=sys.stderr, flush=True)
        yield found


def best_nominal(work: Path, denoiser: str) -> list[str]:
    """The best plan for each number of evaluations, of a search by `benchmarks/best_plans.py`."""
    names = []
    for file in sorted(work.glob(f"{denoiser}-*/found.json")):
        for found in msgspec.json.decode(file.read_bytes()).values():
            scores = [each for each in (*found["best"], *found["named"]) if each is not None]
            names.append(max(scores, key=lambda score: float(score["psnr"]))["plan"])
    return list(dict.fromkeys(names))


def judgements() -> dict[str, Judgement]:
    """Return the stored results, by denoiser."""
    return {row.denoiser: row for row in read_rows(KEPT, Judgement)}


def _graph(sampler: Sampler) -> str | None:
    """The SHA-256 of a body's graph."""
    return sampler.bundle.manifest.files.get(sampler.body.graph.file)


def main() -> int:
    parser = parser_of(__doc__)
    parser.add_argument("bundles", nargs="*", type=Path, help="bundles with plans of `fewstep fit`")
    parser.add_argument("--seeds", type=int, default=SEEDS, help=f"held-out seeds from {GATED} on")
    parser.add_argument("--nominal", default="", help="other plans to compare, separated by semicolons")
    parser.add_argument("--nominal-work", type=Path, help="the --work of benchmarks/best_plans.py")
    parser.add_argument("--threads", type=int, default=0, help="threads of one call")
    parser.add_argument(
        "--print", action="store_true", dest="only_print", help="print the tables instead of writing the page"
    )
    options = parser.parse_args()
    known = judgements()
    with refusing(parser):
        for denoiser, judgement in _measure(options, known):
            known[denoiser] = judgement
            if not options.only_print:
                write_rows(KEPT, known.values())
    text = page(PAGE.read_text(), known.values())
    print(text)
    if not options.only_print:
        PAGE.write_text(text)
    return 0


def _measure(options: argparse.Namespace, known: Mapping[str, Judgement]) -> Iterator[tuple[str, Judgement]]:
    """Yield the results of a denoiser after each figure that the options request."""
    for path in options.bundles:
        bundle, denoiser = open_bundle(path), path.resolve().name
        nominal = [name for name in options.nominal.split(";") if name]
        if options.nominal_work is not None:
            nominal += best_nominal(options.nominal_work, denoiser)
        found = measure(bundle, denoiser, options.seeds, nominal, options.threads, known.get(denoiser))
        yield from ((denoiser, judgement) for judgement in found)


if __name__ == "__main__":
    sys.exit(main())
