"""Noise that is drawn in advance for calls with consecutive seeds, such as those of a control loop.

Drawing a small array of noise takes little longer for many seeds than for one, because numpy's calls take most of the
time. So the noise of the next seeds is drawn as one block, in steps: each call does a share of them, and none pays for
a whole block. The noise of a seed does not depend on when it is drawn, so samples are bitwise identical.
"""

import math
import threading
from collections.abc import Sequence
from dataclasses import dataclass

from fewstep.plans import noise
from fewstep.runtime.arrays import Float32

SMALL = 2**12  # elements of a draw; a larger one takes mainly the time of its numbers, so drawing ahead gains nothing
MOST_SEEDS = noise.STEPS_OF_A_DRAW + 2  # in a block, so that each call does at most one step
LARGEST_BLOCK = 2**13  # elements; it is drawn in the steps of one draw
KEPT = 32  # draws whose noise is kept, by number and shape: at most 1 MiB


class Drawing:
    """A draw that is done in steps."""

    def __init__(self, work: "noise.Work[Float32]") -> None:
        self._work = work
        self._values: Float32 | None = None

    def advance(self, steps: int) -> None:
        """Do some steps, or the rest if there are fewer."""
        for _ in range(steps if self._values is None else 0):
            try:
                next(self._work)
            except StopIteration as end:
                self._values = end.value
                break

    def result(self) -> Float32:
        """Do the rest, and return the noise."""
        while self._values is None:
            self.advance(1)
        return self._values


@dataclass
class NoiseBlock:
    """The noise of consecutive seeds, and the work of the next block.

    first: the first seed. values: [seeds, *shape].
    work: draws the noise of the `following` seeds after the block; None if there are none to draw.
    """

    first: int
    values: Float32
    work: "Drawing | None" = None
    following: int = 0

    @property
    def end(self) -> int:
        return self.first + len(self.values)

    def take(self, first: int, count: int) -> Float32:
        """Return a copy of the noise of some seeds, and do their share of the work of the next block."""
        if self.work is not None:
            self.work.advance(math.ceil(noise.STEPS_OF_A_DRAW * count / len(self.values)))
        return self.values[first - self.first : first - self.first + count].copy()


class NoiseAhead:
    """The noise of a sampler's calls. Threads may share it."""

    def __init__(self) -> None:
        self._kept: dict[tuple[int, tuple[int, ...]], NoiseBlock] = {}
        self._lock = threading.Lock()

    def draw(self, seeds: Sequence[int], number: int, shape: tuple[int, ...]) -> Float32:
        """Return the array that `noise.normal_batch(seeds, number, shape)` returns, [len(seeds), *shape]. For
        consecutive seeds it is copied from a block that was computed in advance."""
        count, first, size = len(seeds), seeds[0], math.prod(shape)
        if count * size > SMALL or seeds[-1] - first != count - 1 or any(b - a != 1 for a, b in zip(seeds, seeds[1:])):
            return noise.normal_batch(seeds, number, shape)
        key = number, shape
        with self._lock:
            block = self._kept.get(key)
            if block is None or not block.first <= first <= block.end:
                block = NoiseBlock(first, noise.normal_batch(seeds, number, shape))
            elif first == block.end:
                block = _make_next(block, count, number, shape)
            elif first + count > block.end:
                return noise.normal_batch(seeds, number, shape)
            if key not in self._kept and len(self._kept) >= KEPT:
                self._kept = {}
            self._kept[key] = block
            return block.take(first, count)


def _make_next(block: NoiseBlock, count: int, number: int, shape: tuple[int, ...]) -> NoiseBlock:
    """Return the block that follows a block, for calls of `count` seeds, and prepare the one after it. Blocks grow from
    call to call, since the seeds may end."""
    first = block.end
    if block.following >= count:
        assert block.work is not None
        values = block.work.result()
    else:
        values = noise.normal_batch(range(first, first + _seeds_of(2 * count, first, count, shape)), number, shape)
    next_block = NoiseBlock(first, values)
    next_block.following = _seeds_of(2 * len(values), next_block.end, count, shape)
    if next_block.following >= count:
        next_block.work = Drawing(
            noise.normals_in_steps(range(next_block.end, next_block.end + next_block.following), number, shape)
        )
    return next_block


def _seeds_of(preferred: int, first: int, count: int, shape: tuple[int, ...]) -> int:
    """Return the number of seeds of a block: a multiple of `count`, and at most the seeds from `first` on."""
    most = min(preferred, max(MOST_SEEDS, count), LARGEST_BLOCK // max(1, math.prod(shape)), 2**64 - first)
    return most - most % count
