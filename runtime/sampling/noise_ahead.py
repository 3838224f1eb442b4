"""Noise that is drawn in advance for calls with consecutive seeds, such as those of a control loop.

Drawing a small array of noise takes little longer for many seeds than for one, because numpy's calls take most of the
time. The noise of a seed does not depend on when it is drawn, so samples are bitwise identical.
"""

from collections.abc import Sequence
from math import prod

from fewstep.plans import noise
from fewstep.runtime.arrays import Float32

SMALL = 2**12  # elements of a draw; a larger one takes mainly the time of its numbers, so drawing ahead gains nothing
SEEDS_AT_ONCE, LARGEST_BLOCK = 2**8, 2**13  # most seeds and elements that are drawn at once: about 0.4 ms
FEW_SEEDS = 16  # most seeds at once of the second of consecutive calls, which may be the last
KEPT = 32  # draws whose noise is kept, by number and shape: at most 1 MiB

Kept = tuple[int, Float32]  # the first of consecutive seeds, and their noise [seeds, *shape]


class NoiseAhead:
    """The noise of a sampler's calls. Threads may share it: a block of noise is replaced as one value."""

    def __init__(self) -> None:
        self._kept: dict[tuple[int, tuple[int, ...]], Kept] = {}

    def draw(self, seeds: Sequence[int], number: int, shape: tuple[int, ...]) -> Float32:
        """Return the array that `noise.normal_batch(seeds, number, shape)` returns, [len(seeds), *shape]. For
        consecutive seeds it is copied from a block that was computed in advance."""
        count, first, size = len(seeds), seeds[0], prod(shape)
        if count * size > SMALL or seeds[-1] - first != count - 1 or any(b - a != 1 for a, b in zip(seeds, seeds[1:])):
            return noise.normal_batch(seeds, number, shape)
        key = number, shape
        start, block = self._kept.get(key, (-1, None))
        if block is not None and start <= first and first + count <= start + len(block):
            return block[first - start : first - start + count].copy()
        wanted = count
        if block is not None and first == start + len(block):  # the seeds continue where the last ones ended
            at_once = SEEDS_AT_ONCE if len(block) > 1 else FEW_SEEDS
            wanted = min(max(count, min(at_once, LARGEST_BLOCK // max(1, size))), 2**64 - first)
        made = noise.normal_batch(range(first, first + wanted), number, shape)
        if key not in self._kept and len(self._kept) >= KEPT:
            self._kept = {}
        self._kept[key] = first, made
        return made[:count].copy()
