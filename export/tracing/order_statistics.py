"""Replace operations on the order of elements that torch.onnx cannot export, or exports such that NaN ends in arbitrary
places.

sort treats NaN as larger than any number. searchsorted counts the edges below x.
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


def _isin(x: Tensor, elements: Tensor, *, assume_unique: bool = False, invert: bool = False) -> Tensor:
    """Return, for each x, whether it is one of the elements (or is not, with `invert`)."""
    found = (x.unsqueeze(-1) == elements.flatten()).any(-1)
    return ~found if invert else found


ORDER_STATISTICS: dict[Any, Callable[..., Any]] = {
    ATEN.sort.default: _sort,
    ATEN.sort.stable: _sort_stably,
    ATEN.isin.Tensor_Tensor: _isin,
}
