"""Export adaptive pooling between fixed sizes of which one is not a multiple of the other.

Output i of n reads the inputs from floor(i size / n) to ceil((i + 1) size / n), as in torch. Windows differ in length,
and may overlap. No pooling operation of ONNX computes this.
"""

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

ATEN = torch.ops.aten


def window_limits(size: int, to: int) -> list[tuple[int, int]]:
    """Return the first input of each of `to` windows, and the first one after it."""
    return [(place * size // to, -(-(place + 1) * size // to)) for place in range(to)]


def _max_pool(x: Tensor, output_size: Sequence[int]) -> Any:
    """Return the maximum of each window, and its first index among the elements of a channel, axis by axis."""
    sizes, to = _read_sizes(x, output_size)
    if not to or all(size % each == 0 for size, each in zip(sizes, to, strict=True)):
        return NotImplemented
    indices, stride = torch.zeros_like(x, dtype=torch.int64), 1
    for axis, size, each in reversed([*zip(range(x.dim() - len(to), x.dim()), sizes, to, strict=True)]):
        found = []
        for first, end in window_limits(size, each):
            value, place = x.narrow(axis, first, end - first).max(axis, True)
            inner = indices.narrow(axis, first, end - first).gather(axis, place)
            found.append((value, inner + stride * (first + place)))
        x, indices = (torch.cat(parts, axis) for parts in zip(*found, strict=True))
        stride *= size
    return x, indices


def _mean_pool(x: Tensor, output_size: Sequence[int]) -> Any:
    """Return the mean of each window, axis by axis."""
    sizes, to = _read_sizes(x, output_size)
    if not to:
        return NotImplemented
    for axis, (size, each) in enumerate(zip(sizes, to, strict=True), x.dim() - len(to)):
        if size != each:
            means = [x.narrow(axis, first, end - first).mean(axis, True) for first, end in window_limits(size, each)]
            x = torch.cat(means, axis)
    return x


def _read_sizes(x: Tensor, output_size: Sequence[int]) -> tuple[list[int], list[int]]:
    """Return the input and output sizes of the pooled axes; both empty if a size is free or zero."""
    sizes = [*x.shape[-len(output_size) :]]
    is_fixed = all(isinstance(size, int) and size > 0 for size in (*sizes, *output_size))
    return (sizes, [*output_size]) if is_fixed else ([], [])


ADAPTIVE_POOLING: dict[Any, Callable[..., Any]] = {
    ATEN.adaptive_max_pool1d.default: _max_pool,
    ATEN.adaptive_max_pool2d.default: _max_pool,
    ATEN.adaptive_max_pool3d.default: _max_pool,
    ATEN.adaptive_avg_pool3d.default: _mean_pool,
}
