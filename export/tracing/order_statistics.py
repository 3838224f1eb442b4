"""Replace operations on the order of elements that torch.onnx cannot export, or exports such that NaN ends in arbitrary
places.

sort treats NaN as larger than any number. kthvalue, median and nanmedian select an element of the sorted rows. mode
counts equal elements. searchsorted counts the edges below x.
"""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

ATEN = torch.ops.aten


def _sort(x: Tensor, dim: int = -1, descending: bool = False) -> Any:
    """Return the sorted rows and the index of each element. Equal elements keep their order. In a row with both NaN and
    infinity, their indices may be exchanged."""
    if not x.dim() or not isinstance(x.shape[dim], int) or x.is_complex():
        return NotImplemented
    if x.dtype == torch.bool:
        values, indices = x.to(torch.int32).topk(x.shape[dim], dim, descending)
        return values != 0, indices
    if not x.is_floating_point():
        return NotImplemented
    is_nan = torch.isnan(x)
    values, indices = x.masked_fill(is_nan, float("inf")).topk(x.shape[dim], dim, descending)
    axes = [-1 if axis == dim % x.dim() else 1 for axis in range(x.dim())]
    places = torch.arange(x.shape[dim], device=x.device).reshape(axes)
    count = is_nan.sum(dim, True)
    is_last = places < count if descending else places >= x.shape[dim] - count
    return values.masked_fill(is_last, float("nan")), indices


def _sort_stably(x: Tensor, *, stable: bool | None, dim: int = -1, descending: bool = False) -> Any:
    return _sort(x, dim, descending)


def _select_sorted(x: Tensor, place: Any, dim: int, keepdim: bool) -> tuple[Tensor, Tensor]:
    """Return the element at index `place` of each row sorted in ascending order, and its index in the unsorted row."""
    values, indices = x.sort(dim)
    found = values.narrow(dim, place, 1), indices.narrow(dim, place, 1)
    return found if keepdim else (found[0].squeeze(dim), found[1].squeeze(dim))


def _kthvalue(x: Tensor, k: int, dim: int = -1, keepdim: bool = False) -> Any:
    return _select_sorted(x, k - 1, dim, keepdim) if x.dim() else NotImplemented


def _median(x: Tensor, dim: int, keepdim: bool = False) -> Any:
    """Return the median, NaN for a row with NaN. Of two middle elements, torch returns the lower one."""
    if not x.dim():
        return NotImplemented
    median, index = _select_sorted(x, (x.shape[dim] - 1) // 2, dim, keepdim)
    if x.is_floating_point():
        median = median.masked_fill(torch.isnan(x).any(dim, keepdim), float("nan"))
    return median, index


def _median_of_all(x: Tensor) -> Any:
    return _median(x.flatten(), 0)[0] if x.dim() else NotImplemented


def _nanmedian(x: Tensor, dim: int, keepdim: bool = False) -> Any:
    """Return the median of the elements that are not NaN, and its index. NaN if there is none."""
    if not x.dim():
        return NotImplemented
    if not x.is_floating_point():
        return _median(x, dim, keepdim)
    is_nan = torch.isnan(x)
    largest = _largest(x, dim)
    values, indices = torch.where(is_nan, largest + largest.abs() + 1, x).sort(dim)  # finite, for int8 ranges
    count = (~is_nan).sum(dim, True)
    place = ((count - 1) // 2).clamp_min(0)
    median = values.gather(dim, place).masked_fill(count == 0, float("nan"))
    found = median, indices.gather(dim, place)
    return found if keepdim else (found[0].squeeze(dim), found[1].squeeze(dim))


def _largest(x: Tensor, dim: int) -> Tensor:
    """Return, for each row, a number that no element exceeds. NaN elements are ignored."""
    return (x.masked_fill(torch.isnan(x), 0.0) if x.is_floating_point() else x).amax(dim, True)


def _nanmedian_of_all(x: Tensor) -> Any:
    return _nanmedian(x.flatten(), 0)[0] if x.dim() else NotImplemented


def _mode(x: Tensor, dim: int = -1, keepdim: bool = False) -> Any:
    """Return the most frequent element, the smallest of several, and the index of its last occurrence."""
    if not x.dim():
        return NotImplemented
    dim %= x.dim()
    counts = (x.unsqueeze(dim) == x.unsqueeze(dim + 1)).sum(dim + 1)
    is_frequent = counts == counts.amax(dim, True)
    mode = torch.where(is_frequent, x, _largest(x, dim)).amin(dim, True)
    places = torch.arange(x.shape[dim], device=x.device).reshape([-1] + [1] * (x.dim() - 1 - dim))
    index = (places * (x == mode)).amax(dim, True)
    return (mode, index) if keepdim else (mode.squeeze(dim), index.squeeze(dim))


def _searchsorted(
    edges: Tensor,
    x: Tensor,
    *,
    out_int32: bool = False,
    right: bool = False,
    side: str | None = None,
    sorter: Tensor | None = None,
) -> Tensor:
    """Return, for each x, the number of edges below x, or with `right` up to x. Edges are in ascending order. NaN is
    above all edges."""
    if sorter is not None:
        edges = edges.gather(-1, sorter)
    rows, places = edges.unsqueeze(-2) if edges.dim() > 1 else edges, x.unsqueeze(-1)
    before = rows <= places if right or side == "right" else rows < places
    before = before | torch.isnan(places) if x.is_floating_point() else before
    return before.sum(-1, dtype=torch.int32 if out_int32 else torch.int64)


def _isin(x: Tensor, elements: Tensor, *, assume_unique: bool = False, invert: bool = False) -> Tensor:
    """Return, for each x, whether it is one of the elements (or is not, with `invert`)."""
    found = (x.unsqueeze(-1) == elements.flatten()).any(-1)
    return ~found if invert else found


ORDER_STATISTICS: dict[Any, Callable[..., Any]] = {
    ATEN.sort.default: _sort,
    ATEN.sort.stable: _sort_stably,
    ATEN.kthvalue.default: _kthvalue,
    ATEN.median.dim: _median,
    ATEN.median.default: _median_of_all,
    ATEN.nanmedian.dim: _nanmedian,
    ATEN.nanmedian.default: _nanmedian_of_all,
    ATEN.mode.default: _mode,
    ATEN.searchsorted.Tensor: _searchsorted,
    ATEN.isin.Tensor_Tensor: _isin,
}
