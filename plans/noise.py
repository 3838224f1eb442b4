"""Standard normal noise with the same values in any batch, on any platform and in any language.

Philox-4x32-10 (Salmon, Moraes, Dror, Shaw 2011, "Parallel random numbers: as easy as 1, 2, 3") as a function of
(seed, draw, element), then Box-Muller in float64. There is no state between calls, so a sample's noise depends neither
on its neighbours in the batch nor on earlier draws.

The fourth word of a counter is its stream, so that draws for different purposes never share a counter.
"""

import math
from collections.abc import Generator, Sequence
from numbers import Integral
from typing import TypeVar

import numpy as np
from numpy.typing import ArrayLike, NDArray

from fewstep.plans.errors import UserError

T = TypeVar("T")
Work = Generator[None, None, T]  # a computation that stops between its steps, and returns its result at the end
DRAWS_LIMIT = 2**32
# Streams: the fourth word of a counter
NORMALS = 0  # the noise of a sample, and of particle 0
CONDITIONS = 1  # the conditions that calibration draws
STEPS = 2  # the subset of a long trajectory's steps that calibration draws
POSITIONS = 3  # the stream of `uniforms`
PARTICLES = 2**16  # + p: the noise of particle p >= 1
CHANCES = 2**32 - 1  # of `uniform`
AT_ONCE = 2**12  # number of blocks of four elements that fit in the cache of a core
STEPS_OF_A_DRAW = 14  # of AT_ONCE blocks: ten rounds of Philox, and four parts of Box-Muller
_MULTIPLIERS = np.array([0xD2511F53, 0xCD9E8D57], np.uint64)
_LOW = np.uint64(0xFFFFFFFF)
_SHIFT = np.uint64(32)
_WEYL = np.arange(10, dtype=np.uint64)[:, None] * np.array([0x9E3779B9, 0xBB67AE85], np.uint64)  # by round


def philox(counter: NDArray[np.uint64], key: ArrayLike) -> NDArray[np.uint64]:
    """Apply ten rounds to counters [4, ...] of 32-bit words (stored in uint64) and return [4, ...]. The key is two
    32-bit words, or two arrays of them that broadcast to the counters."""
    return finish(_philox_rounds(counter, key))


def _philox_rounds(counter: NDArray[np.uint64], key: ArrayLike) -> Work[NDArray[np.uint64]]:
    """Do the work of `philox`. Stops after each round."""
    ones = (1,) * (counter.ndim - 1)
    start = np.asarray(key, np.uint64)
    keys = (start.reshape(2, *(start.shape[1:] or ones)) + _WEYL.reshape(10, 2, *ones)) & _LOW
    even, odd = counter[0::2].copy(), counter[1::2].copy()  # (c0, c2) and (c1, c3)
    multipliers, product = _MULTIPLIERS.reshape(2, *ones), np.empty_like(even)
    other = product[::-1]  # for c0 the product of c2, and the other way round
    for key_of_round in keys:
        np.multiply(even, multipliers, out=product)
        np.right_shift(other, _SHIFT, out=even)
        even ^= odd
        even ^= key_of_round
        np.bitwise_and(other, _LOW, out=odd)
        yield
    return np.stack([even, odd], 1).reshape(counter.shape)


def finish(work: Work[T]) -> T:
    """Do the rest of a piece of work, and return its result."""
    while True:
        try:
            next(work)
        except StopIteration as end:
            result: T = end.value
            return result


def normal(seed: int, draw: int, shape: tuple[int, ...]) -> NDArray[np.float32]:
    """Return a standard normal float32 array of `shape` for one sample.

    Args:
        seed: in [0, 2**64), the sample's seed.
        draw: in [0, 2**32), the number of the draw within the sample (0 starts the trajectory).

    Block b of four elements comes from counter (b mod 2**32, b div 2**32, draw, NORMALS) under the key
    (seed mod 2**32, seed div 2**32): words w0..w3, u = (w + 1/2) / 2**32, and the pairs (u0, u1), (u2, u3) give
    sqrt(-2 ln u) cos(2 pi u'), sqrt(-2 ln u) sin(2 pi u').
    """
    return np.asarray(normal_batch([seed], draw, shape)[0])


def normal_batch(seeds: Sequence[int], draw: int, shape: tuple[int, ...]) -> NDArray[np.float32]:
    """Return standard normal noise [len(seeds), *shape] for a draw: `normal` of each seed."""
    return finish(normals_in_steps(seeds, draw, shape))


def normals_in_steps(seeds: Sequence[int], draw: int, shape: tuple[int, ...]) -> Work[NDArray[np.float32]]:
    """Draw the noise of `normal_batch` in steps of similar length: about STEPS_OF_A_DRAW for up to AT_ONCE blocks. Each
    `next` does one of them, and the result is the value of the StopIteration at the end."""
    return _draw_streams(seeds, np.full(len(seeds), NORMALS, np.uint64), draw, shape)


def particle_normals(seed: int, draw: int, shape: tuple[int, ...], particles: int) -> NDArray[np.float32]:
    """Return the noise of particles 0 to `particles` - 1 of one seed, [particles, *shape]. Particle 0 has the noise of
    `normal`, and particle p the stream PARTICLES + p."""
    streams = np.arange(PARTICLES, PARTICLES + particles, dtype=np.uint64)
    streams[:1] = NORMALS
    return finish(_draw_streams([seed] * particles, streams, draw, shape))


def _draw_streams(
    seeds: Sequence[int], streams: NDArray[np.uint64], draw: int, shape: tuple[int, ...]
) -> Work[NDArray[np.float32]]:
    """Draw the noise of each seed in its stream, [len(seeds), *shape]. The loop processes a few seeds at a time, which
    does not change the values."""
    for seed in seeds:
        if not 0 <= seed < 2**64:
            raise UserError(f"seed {seed} is outside 0 .. 2**64 - 1", "give seeds in that range")
    if not isinstance(draw, Integral) or not 0 <= draw < DRAWS_LIMIT:
        raise UserError(f"draw {draw} is not an integer in 0 .. 2**32 - 1", "number the draws of a sample from 0")
    count = math.prod(shape)
    blocks, numbers = (count + 3) // 4, np.array(seeds, np.uint64)
    values = np.empty((len(seeds), count), np.float32)
    size = max(1, AT_ONCE // max(1, blocks))
    for start in range(0, len(seeds), size):
        some = slice(start, start + size)
        words = yield from _draw_words(numbers[some], blocks, draw, streams[some])
        normals = yield from _box_muller(words)
        values[some] = normals[:, :count]
    return values.reshape(len(seeds), *shape)


def _words(seeds: NDArray[np.uint64], count: int, draw: int, streams: NDArray[np.uint64]) -> NDArray[np.uint64]:
    """Return the Philox words [4, seeds, count] of the first `count` counters of each seed, in the stream of that
    seed."""
    return finish(_draw_words(seeds, count, draw, streams))


def _draw_words(
    seeds: NDArray[np.uint64], count: int, draw: int, streams: NDArray[np.uint64]
) -> Work[NDArray[np.uint64]]:
    """Do the work of `_words`. Stops after each round."""
    blocks, counter = np.arange(count, dtype=np.uint64), np.empty((4, len(seeds), count), np.uint64)
    counter[0], counter[1], counter[2], counter[3] = blocks & _LOW, blocks >> _SHIFT, draw, streams[:, None]
    return (yield from _philox_rounds(counter, np.stack([seeds & _LOW, seeds >> _SHIFT])[:, :, None]))


def _box_muller(words: NDArray[np.uint64]) -> Work[NDArray[np.float32]]:
    """Convert words [4, samples, blocks] to normals [samples, 4 * blocks] by the formula of `normal`. Stops between the
    functions."""
    uniform = words.astype(np.float64)
    uniform += 0.5
    uniform *= 2.0**-32
    yield
    radius = np.sqrt(-2.0 * np.log(uniform[0::2]))  # [2, samples, blocks]
    yield
    angle = (2.0 * math.pi) * uniform[1::2]
    values = np.empty((*words.shape[1:], 4), np.float32)
    values[..., 0::2] = (radius * np.cos(angle)).transpose(1, 2, 0)
    yield
    values[..., 1::2] = (radius * np.sin(angle)).transpose(1, 2, 0)
    return values.reshape(len(values), -1)


def uniforms(seeds: Sequence[int], draw: int, count: int) -> NDArray[np.float64]:
    """Return uniform random numbers in (0, 1), [len(seeds), count]. Each uses 52 random bits."""
    numbers = np.array(seeds, np.uint64)
    words = _words(numbers, (count + 1) // 2, draw, np.full(len(numbers), POSITIONS, np.uint64))
    pairs = np.stack([words[0] << _SHIFT | words[1], words[2] << _SHIFT | words[3]], -1).reshape(len(numbers), -1)
    return ((pairs[:, :count] >> np.uint64(12)).astype(np.float64) + 0.5) * 2.0**-52


def uniform(seed: int, number: int) -> float:
    """Return a uniform random number in (0, 1) for a decision about a whole run, such as resampling. It is independent
    of the noise of all samples."""
    words = np.array([[number & 0xFFFFFFFF], [number >> 32], [0], [CHANCES]], np.uint64)
    return (float(philox(words, (seed & 0xFFFFFFFF, seed >> 32))[0, 0]) + 0.5) * 2.0**-32
