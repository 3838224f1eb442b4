"""Sample sets of a bundle's bodies, streamed in batches: figures and features are kept, samples are not.

Every body samples the same held-out seeds (`held_out.PAIRED`) as the float32 body; float32 alone samples a second set
(`held_out.APART`), which no figure of a pair ever sees.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from fewstep.calibration.conditions_file import ConditionRecords
from fewstep.calibration.held_out import APART, PAIRED, held_out_conditions
from fewstep.evaluation.distances.comparison import Comparison
from fewstep.evaluation.distances.features import Extractor
from fewstep.evaluation.distances.references import References
from fewstep.plans.plan import Plan
from fewstep.runtime.progress import SILENT, Progress
from fewstep.runtime.sampler import Sampler

BATCH = 16  # samples at once: large enough to use the cores, small enough for the caches

Floats = NDArray[np.floating]


@dataclass(frozen=True)
class Counts:
    """How many seeds: compared with float32 one by one, sampled by the teacher, and in a set of a distribution."""

    paired: int
    taught: int
    featured: int


@dataclass(frozen=True)
class Tally:
    """What is kept of one body's samples. `features` are [B, D] each."""

    against_float: Comparison = field(default_factory=Comparison)
    against_teacher: Comparison = field(default_factory=Comparison)
    features: list[Floats] = field(default_factory=list)


def sample_pairs(
    reference: Sampler,
    bodies: Mapping[str, Sampler],
    plan: Plan,
    teacher: Plan,
    counts: Counts,
    extractor: Extractor | None,
    rows: ConditionRecords | None = None,
    progress: Progress = SILENT,
) -> tuple[Tally, dict[str, Tally]]:
    """Tallies of the float32 body and of each other one, over the first seeds of PAIRED; `rows` are own conditions."""
    floats, tallies = Tally(), {name: Tally() for name in bodies}
    seeds = PAIRED[: max(counts.paired, counts.taught, counts.featured)]
    for batch in _batches(seeds):
        paired, taught, featured = (_head(batch, n) for n in (counts.paired, counts.taught, counts.featured))
        exact = _sample(reference, plan, batch, rows)
        lesson = _sample(reference, teacher, batch[:taught], rows) if taught else exact[:0]
        floats.against_teacher.add(exact[:taught], lesson)
        _extract(floats, extractor, exact[:featured])
        for name, sampler in bodies.items():
            samples = _sample(sampler, plan, batch, rows)
            tallies[name].against_float.add(samples[:paired], exact[:paired])
            tallies[name].against_teacher.add(samples[:taught], lesson)
            _extract(tallies[name], extractor, samples[:featured])
        progress("pairs of samples", batch.stop, len(seeds))
    return floats, tallies


def features_apart(
    reference: Sampler,
    plan: Plan,
    count: int,
    extractor: Extractor,
    rows: ConditionRecords | None = None,
    progress: Progress = SILENT,
) -> Floats:
    """Features [count, D] of float32 samples of seeds that nothing else uses."""
    seeds, parts = APART[:count], []
    for batch in _batches(seeds):
        parts.append(extractor.extract(_sample(reference, plan, batch, rows)))
        progress("other float32 samples", batch.stop - seeds.start, len(seeds))
    return np.concatenate(parts)


def features_of(data: References, extractor: Extractor, progress: Progress = SILENT) -> Floats:
    """Features [N, D] of real samples."""
    parts: list[Floats] = []
    for done, samples in enumerate(data.batches(), 1):
        parts.append(extractor.extract(samples))
        progress("features of the data", min(done * len(parts[0]), len(data)), len(data))
    return np.concatenate(parts)


def _sample(sampler: Sampler, plan: Plan, seeds: range, rows: ConditionRecords | None) -> Floats:
    """Samples [len(seeds), *x_shape], each with the held-out condition of its seed."""
    return sampler.sample(plan, seeds, held_out_conditions(sampler.bundle.manifest.conditions, seeds, rows))


def _extract(tally: Tally, extractor: Extractor | None, samples: Floats) -> None:
    if extractor is not None and len(samples):
        tally.features.append(extractor.extract(samples))


def _batches(seeds: range) -> Iterator[range]:
    for start in range(0, len(seeds), BATCH):
        yield seeds[start : start + BATCH]


def _head(batch: range, count: int) -> int:
    """How many of a batch are among the first `count` seeds."""
    return max(0, min(len(batch), count - batch.start))
