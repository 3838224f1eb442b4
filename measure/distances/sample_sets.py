"""Sample sets of a bundle's bodies, streamed in batches: figures and features are kept, samples are not.

Every body samples the same held-out seeds (`held_out.PAIRED`) as the float32 body; float32 alone samples a second set
(`held_out.APART`), which no figure of a pair ever sees.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fewstep.measure.cost import BATCH
from fewstep.measure.distances.comparison import PairedSamples
from fewstep.measure.distances.features import Extractor
from fewstep.measure.distances.references import References
from fewstep.measure.rollouts.held_out import APART, PAIRED
from fewstep.measure.sampling_job import FLOAT, Batch, Sampling
from fewstep.plans.plan import Plan
from fewstep.runtime.progress import SILENT, Progress

Floats = NDArray[np.floating]
HeldOut = Callable[[range], Mapping[str, NDArray[Any]]]  # the conditions of seeds


@dataclass(frozen=True)
class SeedCounts:
    """How many seeds: compared with float32 one by one, sampled by the teacher, and in a set of a distribution."""

    paired: int
    taught: int
    featured: int


@dataclass(frozen=True)
class Tally:
    """What is kept of one body's samples. `features` are [B, D] each."""

    against_float: PairedSamples = field(default_factory=PairedSamples)
    against_teacher: PairedSamples = field(default_factory=PairedSamples)
    features: list[Floats] = field(default_factory=list)


def sample_pairs(
    sampling: Sampling,
    plans: tuple[Plan, Plan],
    bodies: Sequence[str],
    counts: SeedCounts,
    extractor: Extractor | None,
    conditions: HeldOut,
    progress: Progress = SILENT,
) -> tuple[Tally, dict[str, Tally]]:
    """Tallies of the float32 body and of each other one, over the first seeds of PAIRED. `plans` are the one that is
    judged, and the teacher's."""
    judged, teacher = plans
    floats, tallies = Tally(), {name: Tally() for name in bodies}
    seeds = PAIRED[: max(counts.paired, counts.taught, counts.featured)]

    def asked() -> Iterator[Batch]:
        for batch in _batches(seeds):
            values = conditions(batch)
            yield Batch(FLOAT, judged, batch, values)
            if taught := _head(batch, counts.taught):
                yield Batch(FLOAT, teacher, batch[:taught], {name: each[:taught] for name, each in values.items()})
            yield from (Batch(name, judged, batch, values) for name in bodies)

    samples = sampling.answers(asked())
    for batch in _batches(seeds):
        paired, taught, featured = (_head(batch, n) for n in (counts.paired, counts.taught, counts.featured))
        exact = next(samples)
        lesson = next(samples) if taught else exact[:0]
        floats.against_teacher.add(exact[:taught], lesson)
        _extract(floats, extractor, exact[:featured])
        for name in bodies:
            own = next(samples)
            tallies[name].against_float.add(own[:paired], exact[:paired])
            tallies[name].against_teacher.add(own[:taught], lesson)
            _extract(tallies[name], extractor, own[:featured])
        progress("pairs of samples", batch.stop, len(seeds))
    return floats, tallies


def features_apart(
    sampling: Sampling, plan: Plan, count: int, extractor: Extractor, conditions: HeldOut, progress: Progress = SILENT
) -> Floats:
    """Features [count, D] of float32 samples of seeds that nothing else uses."""
    seeds, parts = APART[:count], list[Floats]()
    asked = (Batch(FLOAT, plan, batch, conditions(batch)) for batch in _batches(seeds))
    for batch, samples in zip(_batches(seeds), sampling.answers(asked), strict=True):
        parts.append(extractor.extract(samples))
        progress("other float32 samples", batch.stop - seeds.start, len(seeds))
    return np.concatenate(parts)


def features_of(data: References, extractor: Extractor, progress: Progress = SILENT) -> Floats:
    """Features [N, D] of real samples."""
    parts: list[Floats] = []
    for done, samples in enumerate(data.batches(), 1):
        parts.append(extractor.extract(samples))
        progress("features of the data", min(done * len(parts[0]), len(data)), len(data))
    return np.concatenate(parts)


def _extract(tally: Tally, extractor: Extractor | None, samples: Floats) -> None:
    if extractor is not None and len(samples):
        tally.features.append(extractor.extract(samples))


def _batches(seeds: range) -> Iterator[range]:
    for start in range(0, len(seeds), BATCH):
        yield seeds[start : start + BATCH]


def _head(batch: range, count: int) -> int:
    """How many of a batch are among the first `count` seeds."""
    return max(0, min(len(batch), count - batch.start))
