"""Nearest-neighbour resizing with torch's own indices, which ONNX's Resize may round differently.

torch multiplies an index by input size / output size, rounded to float32; ONNX divides it by the inverse. If the
product is close to a whole number, as for 26 to 64, the two select different neighbours.
"""

from collections.abc import Callable, Sequence
from typing import Any

import torch
from onnxscript import opset20 as op
from onnxscript.function_libs.torch_lib.ops import nn
from torch.nn.functional import interpolate

ATEN = torch.ops.aten


def nearest_indices(size: int, to: int, scale_factor: float | None = None) -> list[int]:
    """Return the index, below `size`, that torch reads for each of `to` output elements.

    scale_factor: the factor that `interpolate` received, if it does not recompute it from the sizes.
    """
    places = torch.arange(size, dtype=torch.float32)[None, None]
    read = interpolate(places, size=to) if scale_factor is None else interpolate(places, scale_factor=scale_factor)
    return [int(place) for place in read[0, 0]]


def _resize(x: Any, output_size: Any = None, scale_factors: Sequence[float] | None = None) -> Any:
    """Return `x` at torch's indices along its last axes: by a Slice if the indices are evenly spaced, otherwise by a
    Gather.

    A Resize is kept if a size is free, or if each output size is a multiple of the input's, a form that engines support
    well.
    """
    sizes, found = find_fixed_sizes(x, output_size, scale_factors)
    if not sizes or not any(to % size for size, to in zip(sizes, found, strict=True)):
        return nn.aten_upsample_nearestnd_vec(x, output_size, scale_factors)
    first = len(x.shape) - len(sizes)
    for place, (size, to) in enumerate(zip(sizes, found, strict=True)):
        if size != to:
            x = _read(x, first + place, nearest_indices(size, to, scale_factors[place] if scale_factors else None))
    return x


def find_fixed_sizes(x: Any, output_size: Any, scale_factors: Sequence[float] | None) -> tuple[list[int], list[int]]:
    """Return the input and output sizes of the resized axes; both empty if a size is free."""
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
    """Add a Slice or Gather that reads `x` at these indices of an axis. Return its result."""
    step = indices[1] - indices[0] if len(indices) > 1 else 1
    if step and indices == list(range(indices[0], indices[-1] + 1, step)):
        ends: list[Any] = [op.Constant(value_ints=[value]) for value in (indices[0], indices[-1] + 1, axis, step)]
        return op.Slice(x, *ends)
    places: Any = op.Constant(value_ints=indices)
    return op.Gather(x, places, axis=axis)


NEAREST: dict[Any, Callable[..., Any]] = {
    operator.vec: _resize for operator in (ATEN.upsample_nearest1d, ATEN.upsample_nearest2d, ATEN.upsample_nearest3d)
}
"""What torch.onnx writes for each nearest-neighbour operation. Those of the mode nearest-exact are written by torch
with its own arithmetic."""
