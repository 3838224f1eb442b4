"""Comparison of samples as sets: the Frechet distance of each body to other float32 samples, and to data."""

from collections.abc import Mapping

import numpy as np

from fewstep.measure.distances import frechet
from fewstep.measure.distances.data import Data
from fewstep.measure.distances.features import Extractor
from fewstep.measure.results import Distance, ExtractorFacts
from fewstep.measure.rollouts.metrics import Floats
from fewstep.runtime.progress import SILENT, Progress


def extract_features(data: Data, extractor: Extractor, progress: Progress = SILENT) -> Floats:
    """Extract the features [N, D] of real samples."""
    parts: list[Floats] = []
    for done, samples in enumerate(data.batches(), 1):
        parts.append(extractor.extract(samples))
        progress("features of the data", min(done * len(parts[0]), len(data)), len(data))
    return np.concatenate(parts)


def extractor_facts(extractor: Extractor, features: Floats) -> ExtractorFacts:
    """Return the name, hash and feature size of an extractor, and the noise floor to expect for features [N, D] of
    float32 samples."""
    fitted = frechet.fit_gaussian(features)
    expected = frechet.bias_of_distance(fitted, fitted.count, fitted.count)
    return ExtractorFacts(extractor.name, extractor.sha256, len(fitted.mean), expected)


def measure_distances(
    floats: Floats, bodies: Mapping[str, Floats], sets: Mapping[str, Floats], resamples: int, progress: Progress
) -> dict[str, tuple[Distance, ...]]:
    """Return, for each body, its distances from all reference sets, computed from features [N, D].

    floats: the features of float32 samples from the bodies' seeds. sets: the features of the reference sets, by display
        name; the first are float32 samples from other seeds, which give the noise floor.
    """
    found: dict[str, list[Distance]] = {name: [] for name in bodies}
    noise_floor: float | None = None
    for label, reference in sets.items():
        for name, features in bodies.items():
            compared = frechet.compare_sets(features, floats, reference, resamples)
            noise_floor = compared.frechet_paired if noise_floor is None else noise_floor
            found[name].append(
                Distance(
                    reference=label,
                    samples=len(features),
                    references=len(reference),
                    frechet=compared.frechet,
                    frechet_float=compared.frechet_paired,
                    difference=compared.difference,
                    low=compared.low,
                    high=compared.high,
                    noise_floor=noise_floor,
                    detectable=compared.is_detectable(noise_floor),
                )
            )
            progress("distances", sum(map(len, found.values())), len(sets) * len(bodies))
    return {name: tuple(each) for name, each in found.items()}
