"""Nearest-neighbour resizing with torch's own indices, where ONNX's Resize may round to others.

torch multiplies an index by input size / output size, rounded to float32; ONNX divides it by the inverse. Where the
product is close to a whole number, as in 26 to 64, the two pick different neighbours.
"""

from collections.abc import Callable, Sequence
from typing import Any

import torch
from onnxscript import opset20 as op
from onnxscript.function_libs.torch_lib.ops import nn
from torch.nn.functional import interpolate

ATEN = torch.ops.aten


def nearest_indices(size: int, to: int, scale_factor: float | None = None) -> list[int]:
    """The index, of `size`, that torch reads for each of `to` places.

    `scale_factor`: where `interpolate` received one and was not to recompute it.
    """
    places = torch.arange(size, dtype=torch.float32)[None, None]
    read = interpolate(places, size=to) if scale_factor is None else interpolate(places, scale_factor=scale_factor)
    return [int(place) for place in read[0, 0]]


def _resize(x: Any, output_size: Any = None, scale_factors: Sequence[float] | None = None) -> Any:
    """`x` read at torch's indices along its last axes: by a Slice where these are evenly spaced, or else a Gather.

    A Resize stays where a size is free, and where each output size is a multiple of the input's: engines know it.
    """
    sizes, found = fixed_sizes(x, output_size, scale_factors)
    if not sizes or not any(to % size for size, to in zip(sizes, found, strict=True)):
        return nn.aten_upsample_nearestnd_vec(x, output_size, scale_factors)
    first = len(x.shape) - len(sizes)
    for place, (size, to) in enumerate(zip(sizes, found, strict=True)):
        if size != to:
            x = _read(x, first + place, nearest_indices(size, to, scale_factors[place] if scale_factors else None))
    return x


def fixed_sizes(x: Any, output_size: Any, scale_factors: Sequence[float] | None) -> tuple[list[int], list[int]]:
    """The input and output sizes of the resized axes; empty where one is free."""
    given: Any = output_size if scale_factors is None else scale_factors
    if not isinstance(given, Sequence):  # a tensor of sizes
        return [], []
    sizes = list(x.shape[-len(given) :])
    if not all(isinstance(size, int) for size in sizes):
        return [], []
    if scale_factors is not None:
        return sizes, [int(size * factor) for size, factor in zip(sizes, scale_factors, strict=True)]
    return (sizes, [*given]) if all(isinstance(size, int) for size in given) else ([], [])


def _read(x: Any, axis: int, indices: list[int]) -> Any:
    """`x` at these indices of an axis."""
    step = indices[1] - indices[0] if len(indices) > 1 else 1
    if step and indices == list(range(indices[0], indices[-1] + 1, step)):
        ends: list[Any] = [op.Constant(value_ints=[value]) for value in (indices[0], indices[-1] + 1, axis, step)]
        return op.Slice(x, *ends)
    places: Any = op.Constant(value_ints=indices)
    return op.Gather(x, places, axis=axis)


NEAREST: dict[Any, Callable[..., Any]] = {
    each.vec: _resize for each in (ATEN.upsample_nearest1d, ATEN.upsample_nearest2d, ATEN.upsample_nearest3d)
}
"""What torch.onnx writes for each nearest-neighbour operation. Those of the mode nearest-exact are written by torch
with its own arithmetic."""
