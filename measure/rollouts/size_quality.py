"""The quality of samples at each size, where the conditions give samples several sizes."""

from collections import defaultdict
from collections.abc import Sequence
from operator import itemgetter

from fewstep.measure.rollouts.conditions_file import ConditionRecords, GivenConditions
from fewstep.runtime.bundle.figures import SizeQuality
from fewstep.runtime.bundle.manifest import Manifest
from fewstep.runtime.kinds.sizes import apply_sizes, sizes_of

Shape = tuple[int, ...]  # of x


def shapes_of_records(records: ConditionRecords | None, manifest: Manifest) -> frozenset[Shape]:
    """Return the shapes of x that records of conditions give samples; that of the bundle without records."""
    sizes = GivenConditions(records).sizes_of(manifest)
    return frozenset(apply_sizes(manifest, own).x_shape for own in sizes)


def qualities_by_size(
    manifest: Manifest,
    shapes: Sequence[Shape],
    seeds: Sequence[int],
    values: Sequence[float],
    possible: frozenset[Shape],
) -> tuple[SizeQuality, ...]:
    """Return the quality of the samples of each size, smallest first; empty if all have one size.

    shapes, seeds, values: of each sample, its shape, its seed and its PSNR in dB. possible: all shapes that samples can
    have. The quality of a size is None if no sample has it.
    """
    by_shape = defaultdict[Shape, list[tuple[float, int]]](list, {shape: [] for shape in possible})
    for shape, seed, value in zip(shapes, seeds, values, strict=True):
        by_shape[shape].append((value, seed))
    if len(by_shape) < 2:
        return ()
    return tuple(_quality(sizes_of(shape, manifest) or {}, samples) for shape, samples in sorted(by_shape.items()))


def _quality(sizes: dict[str, int], samples: Sequence[tuple[float, int]]) -> SizeQuality:
    if not samples:
        return SizeQuality(sizes, None, 0)
    worst, seed = min(samples)
    mean = sum(value for value, _ in samples) / len(samples)
    return SizeQuality(sizes, round(mean, 2), len(samples), round(worst, 2), seed)


def describe_qualities(by_size: Sequence[SizeQuality]) -> str:
    """Return "frames 97 52.1 dB, worst 50.8; frames 400: not judged"."""
    return "; ".join(map(_describe, by_size))


def describe_worst(by_size: Sequence[SizeQuality]) -> str:
    """Return the size and the seed of the sample of the lowest PSNR, as " at frames 400, seed 7"; "" if all have one
    size."""
    judged = [(quality.worst, quality.worst_seed, quality) for quality in by_size if quality.worst is not None]
    if not judged:
        return ""
    _, seed, quality = min(judged, key=itemgetter(0))
    return f" at {name_sizes(quality)}, seed {seed}"


def _describe(quality: SizeQuality) -> str:
    size = name_sizes(quality)
    if quality.psnr is None:
        return f"{size}: not judged"
    return f"{size} {quality.psnr:.1f} dB" + ("" if quality.worst is None else f", worst {quality.worst:.1f}")


def name_sizes(quality: SizeQuality) -> str:
    """Return "height 64, width 96"."""
    return ", ".join(f"{name} {size}" for name, size in quality.sizes.items())
