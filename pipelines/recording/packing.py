"""How pipelines such as FLUX pack latents [channels, *sizes] into the tokens that their schedulers step: one token for
each block of latents."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import product
from math import prod
from typing import Any

import torch
from torch import Tensor

from fewstep.pipelines.recording.call_record import CallRecord, NoisedImage, SchedulerStep
from fewstep.pipelines.recording.element_map import ElementMap, invert
from fewstep.pipelines.recording.stand_ins import recording_error

SIDES = (1, 2, 4)  # of blocks, along each axis


@dataclass(frozen=True)
class Packing:
    """Latents of a shape [channels, *sizes], and their tokens [T, width].

    block: the sides of the latents of one token, along each axis but the first. channels_first: whether the elements of
    a token are [channels, *block], not [*block, channels].
    """

    shape: tuple[int, ...]
    block: tuple[int, ...]
    channels_first: bool

    @property
    def tokens(self) -> tuple[int, ...]:
        """The shape of the tokens [T, width]."""
        blocks = [size // side for size, side in zip(self.shape[1:], self.block, strict=True)]
        return prod(blocks), self.shape[0] * prod(self.block)

    def at(self, shape: Sequence[int]) -> "Packing":
        """Return the same packing of latents of another shape."""
        return replace(self, shape=tuple(shape))

    def pack(self, latents: Tensor) -> Tensor:
        """Return latents [rows, channels, *sizes] of any size and number of channels as tokens [rows, T, width]."""
        rows, channels, *sizes = latents.shape
        counts = [size // side for size, side in zip(sizes, self.block, strict=True)]
        split = [length for pair in zip(counts, self.block, strict=True) for length in pair]
        axes = range(len(sizes))
        blocks, inner = [2 + 2 * axis for axis in axes], [3 + 2 * axis for axis in axes]
        of_token = (1, *inner) if self.channels_first else (*inner, 1)
        parts = latents.reshape(rows, channels, *split).permute(0, *blocks, *of_token)
        return parts.reshape(rows, prod(counts), channels * prod(self.block))

    def unpack(self, tokens: Tensor, sizes: Sequence[int] | None = None) -> Tensor:
        """Return tokens [rows, T, width] as latents [rows, channels, *sizes]; without sizes, those of `shape`."""
        rows, _, width = tokens.shape
        sizes = self.shape[1:] if sizes is None else sizes
        counts = [size // side for size, side in zip(sizes, self.block, strict=True)]
        channels, axes = width // prod(self.block), len(counts)
        of_token = (channels, *self.block) if self.channels_first else (*self.block, channels)
        at_channels = 1 + axes if self.channels_first else 1 + 2 * axes
        inner = 2 + axes if self.channels_first else 1 + axes
        order = [place for axis in range(axes) for place in (1 + axis, inner + axis)]
        parts = tokens.reshape(rows, *counts, *of_token).permute(0, at_channels, *order)
        return parts.reshape(rows, channels, *sizes)

    def unpack_record(self, record: CallRecord) -> CallRecord:
        """Return a recording whose scheduler steps latents. The calls of its networks are unchanged. Raises UserError
        for another number of tokens."""
        steps = tuple(map(self._unpack_step, record.steps))
        returned = record.returned
        if isinstance(returned, tuple):
            returned = tuple(map(self._unpack_if_tokens, returned))
        noised = tuple(map(self._unpack_if_tokens, record.noised))
        own = tuple(
            NoisedImage(*map(self._unpack_if_tokens, (image.image, image.noise, image.noised)))
            for image in record.own_noised
        )
        return replace(record, steps=steps, returned=returned, noised=noised, own_noised=own)

    def _unpack_step(self, step: SchedulerStep) -> SchedulerStep:
        is_whole = not any(size % side for size, side in zip(self.shape[1:], self.block, strict=True))
        if not is_whole or tuple(step.sample.shape[1:]) != self.tokens or step.joined > 1:
            what = f"tokens {list(step.sample.shape[1:])} are not latents {list(self.shape)}"
            raise recording_error(what)
        fields = {name: self._unpack_if_tokens(getattr(step, name)) for name in ("model_output", "sample", "result")}
        return replace(step, **fields, variance=self._unpack_if_tokens(step.variance))

    def _unpack_if_tokens(self, value: Any) -> Any:
        is_tokens = isinstance(value, Tensor) and tuple(value.shape[1:]) == self.tokens
        return self.unpack(value) if is_tokens else value


def find_packing(latents: ElementMap) -> Packing | None:
    """Return how latents are packed into tokens, from the map of tokens to latents; None if their order is that of no
    packing. Axes of latents of length 1 after the first, such as that of a single frame, are left out."""
    if len(latents.source_shape) != 2:
        return None
    channels, *sizes = latents.target_shape
    shape = (channels, *(size for size in sizes if size > 1))
    count = prod(shape)
    places = torch.arange(count).reshape(1, *shape)
    order = invert(latents.order, count)
    for packing in _possible_packings(shape, latents.source_shape):
        if torch.equal(packing.pack(places).flatten(), order):
            return packing
    return None


def _possible_packings(shape: tuple[int, ...], tokens: tuple[int, ...]) -> Iterator[Packing]:
    for block in product(SIDES, repeat=len(shape) - 1):
        if any(size % side for size, side in zip(shape[1:], block, strict=True)):
            continue
        for channels_first in (True, False):
            packing = Packing(shape, block, channels_first)
            if packing.tokens == tokens:
                yield packing
