"""Elementwise operations for which torch.onnx has no form: fmax and fmin, which ignore NaN, and copysign."""

import math
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

ATEN = torch.ops.aten


def _fmax(a: Tensor, b: Tensor) -> Tensor:
    """Return the larger element, or the one that is not NaN."""
    return torch.where(a >= b if _is_whole(b) else (a >= b) | torch.isnan(b), a, b)


def _fmin(a: Tensor, b: Tensor) -> Tensor:
    """Return the smaller element, or the one that is not NaN."""
    return torch.where(a <= b if _is_whole(b) else (a <= b) | torch.isnan(b), a, b)


def _is_whole(x: Tensor) -> bool:
    """Return whether x has no NaN, of which ONNX has no test for integers."""
    return not x.is_floating_point()


def _copysign(a: Tensor, b: Tensor) -> Tensor:
    """Return a with the sign of b. A zero has the sign of its reciprocal, which is infinite. A NaN is positive."""
    kind = torch.promote_types(a.dtype, b.dtype)
    kind = kind if kind.is_floating_point else torch.get_default_dtype()
    a, b = a.to(kind), b.to(kind)
    is_negative = (b < 0) | (b.reciprocal() < 0)  # 1 / -inf is not negative
    return torch.where(is_negative, -a.abs(), a.abs())


def _copysign_of_number(a: Tensor, number: float) -> Tensor:
    a = a if a.is_floating_point() else a.to(torch.get_default_dtype())
    return -a.abs() if math.copysign(1.0, number) < 0 else a.abs()


ELEMENTWISE: dict[Any, Callable[..., Any]] = {
    ATEN.fmax.default: _fmax,
    ATEN.fmin.default: _fmin,
    ATEN.copysign.Tensor: _copysign,
    ATEN.copysign.Scalar: _copysign_of_number,
}
