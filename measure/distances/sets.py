"""Samples as sets: the Frechet distance of each body to float32 samples of other seeds, and to data."""

from collections.abc import Mapping

import numpy as np
from numpy.typing import NDArray

from fewstep.measure.distances import distance
from fewstep.measure.distances.data import Data
from fewstep.measure.distances.features import Extractor
from fewstep.measure.results import Distance, Features
from fewstep.runtime.progress import SILENT, Progress

Floats = NDArray[np.floating]


def features_of(data: Data, extractor: Extractor, progress: Progress = SILENT) -> Floats:
    """Features [N, D] of real samples."""
    parts: list[Floats] = []
    for done, samples in enumerate(data.batches(), 1):
        parts.append(extractor.extract(samples))
        progress("features of the data", min(done * len(parts[0]), len(data)), len(data))
    return np.concatenate(parts)


def described(extractor: Extractor, features: Floats) -> Features:
    """The extractor, and what theory expects of the distance between two float32 sets, by features of one."""
    fitted = distance.fit(features)
    expected = distance.bias(fitted, fitted.count, fitted.count)
    return Features(extractor.name, extractor.sha256, len(fitted.mean), expected)


def distances(
    floats: Floats, bodies: Mapping[str, Floats], sets: Mapping[str, Floats], resamples: int, progress: Progress
) -> dict[str, tuple[Distance, ...]]:
    """The distance of each body to each set of references, by features [N, D]. `floats` are float32's of the bodies'
    seeds. The first set is float32's own, so it gives the floor."""
    found: dict[str, list[Distance]] = {name: [] for name in bodies}
    floor: float | None = None
    for label, reference in sets.items():
        for name, features in bodies.items():
            own = distance.compare(features, floats, reference, resamples)
            floor = own.frechet_paired if floor is None else floor
            found[name].append(
                Distance(
                    reference=label,
                    samples=len(features),
                    references=len(reference),
                    frechet=own.frechet,
                    frechet_float=own.frechet_paired,
                    difference=own.difference,
                    low=own.low,
                    high=own.high,
                    floor=floor,
                    detectable=own.is_detectable(floor),
                )
            )
            progress("distances", sum(map(len, found.values())), len(sets) * len(bodies))
    return {name: tuple(each) for name, each in found.items()}
