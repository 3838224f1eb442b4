"""Cumulative maxima, minima, products and sums of exponentials along an axis of fixed length.

The cumulative maximum of n elements takes log2(n) steps (Hillis and Steele 1986): after step k, each element is the
maximum of the last 2^k elements up to it. A product takes n steps, in torch's order, because a product of later
elements alone may overflow. torch rounds it once, from float64, and the graph after each step.
"""

from collections.abc import Callable
from functools import partial
from typing import Any

import torch
from torch import Tensor

from fewstep.export.error_text import MissingForm

ATEN = torch.ops.aten
LONGEST_PRODUCT = 1024  # elements: each is a node of the graph


def _running_extreme(x: Tensor, dim: int, *, is_max: bool) -> Any:
    """Return the cumulative maximum or minimum of x along `dim`, and the index of its last occurrence. As in torch, NaN
    propagates."""
    if not x.dim():
        return x.clone(), torch.zeros_like(x, dtype=torch.int64)
    length, place = x.shape[dim], 1
    if not isinstance(length, int):
        return NotImplemented
    axes = [1] * x.dim()
    axes[dim] = length
    indices = torch.arange(length, device=x.device).reshape(axes).expand(x.shape)
    while place < length:
        rest = length - place
        earlier, later = x.narrow(dim, 0, rest), x.narrow(dim, place, rest)
        is_later = later >= earlier if is_max else later <= earlier
        is_later = is_later | torch.isnan(later) if x.is_floating_point() else is_later
        cuts = ((0, place), (0, rest), (place, rest))
        parts = [[each.narrow(dim, *cut) for cut in cuts] for each in (x, indices)]
        x, indices = (torch.cat([first, torch.where(is_later, new, old)], dim) for first, old, new in parts)
        place *= 2
    return x, indices


def _running_product(x: Tensor, dim: int, *, dtype: torch.dtype | None = None) -> Any:
    x = x.to(dtype or (x.dtype if x.is_floating_point() or x.is_complex() else torch.int64))
    if not x.dim():
        return x.clone()
    length = x.shape[dim]
    if not isinstance(length, int) or not 0 < length <= LONGEST_PRODUCT or x.is_complex():
        return NotImplemented
    products = [x.narrow(dim, 0, 1)]
    for place in range(1, length):
        products.append(products[-1] * x.narrow(dim, place, 1))
    return torch.cat(products, dim)


def _running_log_sum(x: Tensor, dim: int) -> Any:
    """Return the logarithm of the cumulative sum of exp(x), in log2(n) steps (logcumsumexp). torch.onnx would compute
    the exponentials, which are 0 or infinite for numbers beyond 88."""
    if not x.dim():
        return x.clone()
    length, place = x.shape[dim], 1
    if not isinstance(length, int):
        raise MissingForm(" along an axis of free size")
    while place < length:
        rest = length - place
        sums = torch.logaddexp(x.narrow(dim, 0, rest), x.narrow(dim, place, rest))
        x = torch.cat([x.narrow(dim, 0, place), sums], dim)
        place *= 2
    return x


CUMULATIVE: dict[Any, Callable[..., Any]] = {
    ATEN.cummax.default: partial(_running_extreme, is_max=True),
    ATEN.cummin.default: partial(_running_extreme, is_max=False),
    ATEN.cumprod.default: _running_product,
    ATEN.logcumsumexp.default: _running_log_sum,
}
