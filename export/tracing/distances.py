"""The distances between all pairs of rows, cdist, which torch.onnx cannot export."""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from fewstep.export.error_text import MissingForm

ATEN = torch.ops.aten
MANY_ROWS = 25  # number of rows above which torch computes Euclidean distances by a matrix product
BY_PRODUCT, BY_DIFFERENCES = 1, 2  # compute_mode of cdist


def _cdist(a: Tensor, b: Tensor, p: float = 2.0, compute_mode: int | None = None) -> Tensor:
    """Return the Euclidean distances between all rows of a [..., P, M] and b [..., R, M], as [..., P, R].

    They are computed by a matrix product where torch does so: it rounds differently. Other norms are refused.
    """
    if p != 2:
        raise MissingForm(" with p other than 2", "write the norm of a[..., :, None, :] - b[..., None, :, :]")
    rows = [size for size in (a.shape[-2], b.shape[-2]) if isinstance(size, int)]
    is_large = any(size > MANY_ROWS for size in rows) and compute_mode != BY_DIFFERENCES
    if compute_mode == BY_PRODUCT or is_large:
        squares = [operand.pow(2).sum(-1, keepdim=True) for operand in (a, b)]
        left = torch.cat([-2 * a, squares[0], torch.ones_like(squares[0])], -1)
        right = torch.cat([b, torch.ones_like(squares[1]), squares[1]], -1)
        return (left @ right.transpose(-1, -2)).clamp_min(0).sqrt()
    apart = a.unsqueeze(-2) - b.unsqueeze(-3)
    return (apart * apart).sum(-1).sqrt()


DISTANCES: dict[Any, Callable[..., Any]] = {ATEN.cdist.default: _cdist}
