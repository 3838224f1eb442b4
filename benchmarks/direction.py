"""What int8 keeps of guidance's direction at each step, and whether guidance may end before the last steps.

`python -m benchmarks.direction BUNDLE --body int8-cpu-x86` judges a body of a bundle along the plan that it was
calibrated along. The first table compares int8 and float32 on the states of float32's trajectory. In the second, steps
of the same plan are unguided, and each such step saves an evaluation of a branch. A plan of fewer steps, all guided,
saves as many. PSNR is to a float32 teacher with guidance at all steps. Where the bundle has a named extractor, the
table has the share of samples that its classifier gives the wanted class, and FD to the teacher's samples.
"""

import argparse
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from benchmarks.markdown import table
from benchmarks.options import add_seeds, parser_of, refusing, seeds_of
from fewstep.evaluation.distances.distance import fit, frechet
from fewstep.evaluation.distances.features import default_features, open_extractor
from fewstep.evaluation.distances.judged_batch import Candidate, JudgedBatch, SeedBatch
from fewstep.lowering.bodies import open_body
from fewstep.plans.guidance import Cfg, Guidance, weight_of
from fewstep.plans.name import with_grid
from fewstep.plans.plan import Plan
from fewstep.rollouts.calibrated_plan import judged_plan
from fewstep.rollouts.conditions_file import ConditionRecords, read_conditions
from fewstep.rollouts.direction import NONE, judged_differences
from fewstep.rollouts.held_out import held_out_conditions
from fewstep.rollouts.metrics import psnr
from fewstep.runtime.bundle.manifest import Difference
from fewstep.runtime.bundle.reading import open_bundle
from fewstep.runtime.sampler import Sampler

BATCH = 16
TEACHER = 48  # steps
EXTRACTED = 128  # samples or more, of which an FD is taken
HEAD = ("guided steps", "evaluations", "PSNR", "5th percentile", "wanted class", "FD")

Floats = NDArray[np.floating[Any]]


def steps_table(body: Sampler, reference: Sampler, plan: Plan, seeds: range, rows: ConditionRecords | None) -> str:
    """Gain, ratio of signals and share of each step, of guidance's direction and of two conditions."""
    manifest, total = reference.bundle.manifest, np.zeros((len(plan.steps), *NONE.shape))
    bodies = {"float32": reference, "int8": body}
    for part in _parts(seeds):
        conditions = held_out_conditions(manifest.conditions, part, rows)
        candidate = Candidate("int8", body.body.groups, part.stop, part.stop)
        batch = JudgedBatch(plan, (candidate,), SeedBatch(part, manifest.x_shape, conditions))
        total += batch.answer(bodies.__getitem__).bodies["int8"].differences
    kinds = ("guidance", "two conditions")
    head = ("step", *(f"{kind}: {each}" for kind in kinds for each in ("gain", "dB", "of the sample")))
    lines = [
        (str(index + 1), *(cell for each in judged_differences(index, own) for cell in _cells(each)))
        for index, own in enumerate(total)
    ]
    return table(head, lines)


def _cells(each: Difference | None) -> tuple[str, ...]:
    return ("", "", "") if each is None else (f"{each.gain:.3f}", f"{each.ratio:.1f}", f"{100 * each.share:.1f} %")


def _parts(seeds: range) -> Iterator[range]:
    return (seeds[start : start + BATCH] for start in range(0, len(seeds), BATCH))


def sampled(
    sampler: Sampler, plan: Plan | str, guidance: Guidance | float | None, seeds: range, rows: ConditionRecords | None
) -> Floats:
    """Samples [seeds, *x_shape] along a plan."""
    parts = []
    for part in _parts(seeds):
        conditions = held_out_conditions(sampler.bundle.manifest.conditions, part, rows)
        parts.append(sampler.sample(plan, part, conditions, guidance))
    return np.concatenate(parts)


def unguided(steps: int, weight: float) -> Iterator[tuple[str, int, Guidance]]:
    """Forms of guidance that leave some steps out: in words, with their number of evaluations."""
    for count in (0, 1, 2, 3):
        few, rest = (1.0,) * count, (weight,) * (steps - count)
        yield f"all but the last {count}" if count else "all", 2 * steps - count, Cfg((*rest, *few))
        if count:
            yield f"all but the first {count}", 2 * steps - count, Cfg((*few, *rest))


def ends_table(body: Sampler, reference: Sampler, plan: Plan, seeds: range, rows: ConditionRecords | None) -> str:
    """The same body with guidance at fewer steps, and with fewer steps."""
    weight, steps = weight_of(plan.guidance), len(plan.steps)
    solver, _, grid = with_grid(plan.name).partition("@")
    name = solver.partition(":")[0]
    teacher = sampled(reference, f"{name}:{TEACHER}@{grid}", weight, seeds, rows)
    judge = _Classes(reference, teacher, seeds, rows)
    lines = []
    for said, evaluations, guidance in unguided(steps, weight or 1.0):
        own = sampled(body, f"{name}:{steps}@{grid}", guidance, seeds, rows)
        lines.append((said, str(evaluations), *judge.figures(own)))
    fewer = sampled(body, f"{name}:{steps - 1}@{grid}", weight, seeds, rows)
    lines.append((f"all of {steps - 1}", str(2 * steps - 2), *judge.figures(fewer)))
    return table(HEAD, lines)


class _Classes:
    """Figures of samples beside the teacher's."""

    def __init__(self, reference: Sampler, teacher: Floats, seeds: range, rows: ConditionRecords | None) -> None:
        manifest = reference.bundle.manifest
        features = default_features(manifest)
        self.extractor = None if features == "none" else open_extractor(features, manifest.x_shape)
        self.teacher, self.labels = teacher, held_out_conditions(manifest.conditions, seeds, rows).get("class")

    def figures(self, samples: Floats) -> Sequence[str]:
        quality = psnr(samples, self.teacher)
        cells = [f"{quality.mean():.2f}", f"{np.percentile(quality, 5):.2f}"]
        if self.extractor is None or self.labels is None:
            return [*cells, "", ""]
        own, exact = (self._run(each) for each in (samples, self.teacher))
        right = float((own["logits"].argmax(1) == self.labels).mean())
        distance = frechet(*(fit(each["features"]) for each in (own, exact))) if len(samples) >= EXTRACTED else None
        return [*cells, f"{100 * right:.1f} %", "" if distance is None else f"{distance:.1f}"]

    def _run(self, samples: Floats) -> dict[str, Floats]:
        assert self.extractor is not None
        return dict(self.extractor.network({self.extractor.input: np.clip(samples, -1, 1).astype(np.float32)}))


def main() -> None:
    parser = parser_of(__doc__)
    parser.add_argument("bundle", type=Path)
    parser.add_argument("--body", default="int8-cpu-x86", help="the body that is judged (default %(default)s)")
    parser.add_argument("--conditions", type=Path, help="a file of conditions, as `fewstep calibrate` takes it")
    parser.add_argument("--part", choices=("steps", "ends"), action="append", help="one of the two tables")
    add_seeds(parser, 64)
    given: argparse.Namespace = parser.parse_args()
    with refusing(parser):
        bundle, seeds = open_bundle(given.bundle), seeds_of(given)
        body, reference = open_body(bundle, given.body, 0), open_body(bundle, "float32", 0)
        rows = None if given.conditions is None else read_conditions(given.conditions, bundle.manifest.conditions)
        plan = judged_plan(reference, body.body)
        parts = {"steps": steps_table, "ends": ends_table}
        for name in given.part or parts:
            print(f"{bundle.manifest.name}, {given.body}, {plan.name}, {len(seeds)} seeds from {seeds.start}\n")
            print(parts[name](body, reference, plan, seeds, rows), "\n")


if __name__ == "__main__":
    main()
