"""Standard normal noise with the same values in any batch, on any platform and in any language.

Philox-4x32-10 (Salmon, Moraes, Dror, Shaw 2011, "Parallel random numbers: as easy as 1, 2, 3") as a function of
(seed, draw, element), then Box-Muller in float64. No state passes from call to call, so a sample's noise depends
neither on its neighbours in the batch nor on earlier draws.

The fourth word of a counter names its stream, so that drawings for different purposes share no counter.
"""

import math
from collections.abc import Sequence
from numbers import Integral

import numpy as np
from numpy.typing import NDArray

from fewstep.plans.errors import UserError

DRAWS_LIMIT = 2**32
# Streams: the fourth word of a counter
NORMALS = 0  # the noise of a sample, and of particle 0
CONDITIONS = 1  # conditions that calibration draws
STEPS = 2  # steps that calibration draws of a long trajectory
PARTICLES = 2**16  # + p: the noise of particle p, from 1 on
CHANCES = 2**32 - 1  # of `uniform`
_MULTIPLIERS = np.array([[0xD2511F53], [0xCD9E8D57]], np.uint64)  # of words 0 and 2
_WEYL = (0x9E3779B9, 0xBB67AE85)
_LOW = np.uint64(0xFFFFFFFF)
_SHIFT = np.uint64(32)


def philox(counter: NDArray[np.uint64], key: tuple[int, int]) -> NDArray[np.uint64]:
    """Ten rounds over counters [4, N] of 32-bit words (held in uint64), with a key of two 32-bit words -> [4, N].

    Words 0 and 2 go together, and so do 1 and 3. A few numbers cost as many calls of numpy as a million.
    """
    k0, k1 = key
    turns = ((k1 + turn * _WEYL[1], k0 + turn * _WEYL[0]) for turn in range(10))
    keys = np.array([(odd & 0xFFFFFFFF, even & 0xFFFFFFFF) for odd, even in turns], np.uint64)
    even, odd = counter[::2], counter[1::2]
    for here in keys[:, :, None]:
        product = even * _MULTIPLIERS
        even, odd = ((product >> _SHIFT) ^ odd[::-1] ^ here)[::-1], (product & _LOW)[::-1]
    return np.stack([even[0], odd[0], even[1], odd[1]])


def normal(seed: int, draw: int, shape: tuple[int, ...]) -> NDArray[np.float32]:
    """Standard normal float32 array of `shape` for one sample.

    Args:
        seed: in [0, 2**64): which sample.
        draw: in [0, 2**32): which of the sample's draws (0 starts the trajectory).

    Block b of four elements comes from counter (b mod 2**32, b div 2**32, draw, NORMALS) under the key
    (seed mod 2**32, seed div 2**32): words w0..w3, u = (w + 1/2) / 2**32, and the pairs (u0, u1), (u2, u3) give
    sqrt(-2 ln u) cos(2 pi u'), sqrt(-2 ln u) sin(2 pi u').
    """
    (alone,) = normals(seed, draw, shape, 1)
    return np.asarray(alone)


def stacked(seeds: Sequence[int], draw: int, shape: tuple[int, ...]) -> NDArray[np.float32]:
    """`normal` of each seed, [len(seeds), *shape]: what the executor draws for a batch."""
    return np.stack([normal(seed, draw, shape) for seed in seeds])


def normals(seed: int, draw: int, shape: tuple[int, ...], particles: int) -> NDArray[np.float32]:
    """The same for particles 0 to `particles` - 1 of one seed, [particles, *shape]. Particle 0 has the noise of
    `normal`, particle p the stream PARTICLES + p."""
    if not 0 <= seed < 2**64:
        raise UserError(f"seed {seed} is outside 0 .. 2**64 - 1", "give seeds in that range")
    if not isinstance(draw, Integral) or not 0 <= draw < DRAWS_LIMIT:
        raise UserError(f"draw {draw} is no whole number in 0 .. 2**32 - 1", "number the draws of a sample from 0")
    count = math.prod(shape)
    each = np.arange((count + 3) // 4, dtype=np.uint64)
    blocks, words = np.tile(each, particles), np.repeat(_particle_streams(particles), len(each))
    counter = np.stack([blocks & _LOW, blocks >> _SHIFT, np.full_like(blocks, draw), words])
    uniform = (philox(counter, _key(seed)).astype(np.float64) + 0.5) * 2.0**-32
    radius = np.sqrt(-2.0 * np.log(uniform[0::2]))  # [2, blocks]
    angle = (2.0 * math.pi) * uniform[1::2]
    pairs = np.stack([radius * np.cos(angle), radius * np.sin(angle)], axis=1)  # [2, 2, blocks]
    flat: NDArray[np.float32] = pairs.reshape(4, -1).T.reshape(particles, -1)[:, :count].astype(np.float32)
    return flat.reshape(particles, *shape)


def _particle_streams(particles: int) -> NDArray[np.uint64]:
    streams = np.arange(PARTICLES, PARTICLES + particles, dtype=np.uint64)
    streams[:1] = NORMALS
    return streams


def uniform(seed: int, number: int) -> float:
    """A chance in (0, 1), for decisions of a run such as a resampling: no sample's noise comes from these counters."""
    words = np.array([[number & 0xFFFFFFFF], [number >> 32], [0], [CHANCES]], np.uint64)
    return (float(philox(words, _key(seed))[0, 0]) + 0.5) * 2.0**-32


def _key(seed: int) -> tuple[int, int]:
    return seed & 0xFFFFFFFF, seed >> 32
