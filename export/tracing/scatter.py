"""Reductions of scattered elements that torch.onnx writes wrongly or not at all: means, which are the sum divided by
the number of elements, the reductions of `scatter`, and those of a part of a larger tensor."""

from collections.abc import Callable
from functools import partial
from typing import Any

import torch
from torch import Tensor

ATEN = torch.ops.aten


def _scatter_reduce(
    x: Tensor, dim: int, index: Tensor, source: Tensor, reduce: str, *, include_self: bool = True
) -> Any:
    """Return, for each element of x, the mean of the elements that are scattered to it, and of the element itself if
    `include_self`. An element to which nothing is scattered keeps its value. Means of integers are rounded down. Other
    reductions are left to torch (NotImplemented), unless they are of a part of `source`."""
    if not x.dim():
        return NotImplemented
    if reduce != "mean":
        return _scatter_part(
            x, dim, index, source, operation=partial(_reduce, reduce=reduce, include_self=include_self)
        )
    total = x.scatter_reduce(dim, index, source, "sum", include_self=include_self)
    first = torch.ones_like(x) if include_self else torch.zeros_like(x)
    count = first.scatter_add(dim, index, torch.ones_like(source)).clamp_min(1)
    return total / count if x.is_floating_point() else torch.div(total, count, rounding_mode="floor")


def _index_reduce(x: Tensor, dim: int, index: Tensor, source: Tensor, reduce: str, *, include_self: bool = True) -> Any:
    """Return the means as `_scatter_reduce` does, where all elements of a slice have one index."""
    if not x.dim():
        return NotImplemented
    axes = [1] * x.dim()
    axes[dim] = -1
    places = index.reshape(axes).expand(source.shape)
    if reduce == "mean":
        return _scatter_reduce(x, dim, places, source, reduce, include_self=include_self)
    return x.scatter_reduce(dim, places, source, reduce, include_self=include_self)


def _scatter_part(x: Tensor, dim: int, index: Tensor, source: Tensor, *, operation: Callable[..., Tensor]) -> Any:
    """Scatter the part of `source` that has indices. ONNX does not accept a larger source."""
    part = _select_part(source, index)
    return NotImplemented if part is source else operation(x, dim, index, part)


def _select_part(source: Tensor, index: Tensor) -> Tensor:
    """Return the part of `source` that has indices: `source` itself if all elements have."""
    for axis, (size, part) in enumerate(zip(source.shape, index.shape, strict=False)):  # a number has no axis
        source = source.narrow(axis, 0, part) if isinstance(size, int) and size != part else source
    return source


def _reduce(x: Tensor, dim: int, index: Tensor, source: Tensor, *, reduce: str, include_self: bool) -> Tensor:
    return x.scatter_reduce(dim, index, source, reduce, include_self=include_self)


def _scatter(x: Tensor, dim: int, index: Tensor, source: Any, *, reduce: str) -> Tensor:
    """Return x plus or times the elements that are scattered to it. `source` is a tensor, or one number for all."""
    values = source if isinstance(source, Tensor) else torch.full_like(index, source, dtype=x.dtype)
    part = _select_part(values, index)
    return x.scatter_reduce(dim, index, part, {"add": "sum", "multiply": "prod"}[reduce])


SCATTER_REDUCTIONS: dict[Any, Callable[..., Any]] = {
    ATEN.scatter.src: partial(_scatter_part, operation=ATEN.scatter.src),
    ATEN.scatter_add.default: partial(_scatter_part, operation=ATEN.scatter_add.default),
    ATEN.scatter.reduce: _scatter,
    ATEN.scatter.value_reduce: _scatter,
    ATEN.scatter_reduce.two: _scatter_reduce,
    ATEN.index_reduce.default: _index_reduce,
}
