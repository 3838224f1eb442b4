"""Elementwise operations that torch.onnx cannot export, or exports with results that overflow or are wrong at zeros:
atan2, log1p, expm1, sums of booleans, and clamps with one limit."""

import math
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

ATEN = torch.ops.aten


def _add(a: Any, b: Any, *, alpha: Any = 1) -> Any:
    """Return whether either of two booleans is true. ONNX has no Add of booleans. Other types are left to torch
    (NotImplemented), as is a number plus a tensor."""
    is_bool = b.dtype == torch.bool if isinstance(b, Tensor) else isinstance(b, bool)
    if not isinstance(a, Tensor) or a.dtype != torch.bool or not is_bool:
        return NotImplemented
    return torch.logical_or(a, b if isinstance(b, Tensor) else torch.full_like(a, b)) if alpha else a


def _as_floats(a: Tensor, b: Tensor) -> tuple[Tensor, Tensor]:
    """Return both tensors in the floating-point type that torch gives to a result of the two."""
    kind = torch.promote_types(a.dtype, b.dtype)
    kind = kind if kind.is_floating_point else torch.get_default_dtype()
    return a.to(kind), b.to(kind)


def _is_negative(x: Tensor) -> Tensor:
    """Return the sign bit of each element. A zero has the sign of its reciprocal, which is infinite."""
    return (x < 0) | (x.reciprocal() < 0)  # 1 / -inf is not negative


def _log1p(x: Tensor) -> Any:
    """Return log(1 + x). Where 1 + x would round x, return 2 atanh(x / (2 + x)) by its series, up to 2e-8 of it."""
    if not x.is_floating_point():
        return NotImplemented
    near = x.clamp(-0.25, 0.25)
    s = near / (2 + near)
    square = s * s
    series = 2 * s * (1 + square * (1 / 3 + square * (1 / 5 + square / 7)))
    return torch.where(x.abs() < 0.25, series, torch.log(1 + x))


def _expm1(x: Tensor) -> Any:
    """Return exp(x) - 1. Below 1/2, where the difference loses digits, return 2 t / (1 - t) with t = tanh(x / 2)."""
    if not x.is_floating_point():
        return NotImplemented
    half = torch.tanh(x.clamp_max(0.5) / 2)
    return torch.where(x < 0.5, 2 * half / (1 - half), torch.exp(x) - 1)


def _clamp(x: Tensor, least: Any = None, most: Any = None) -> Any:
    """Clamp x from below or from above, with minimum or maximum. With only one limit, ONNX Runtime's Clip would make an
    infinity on the other side finite. Other cases are left to torch (NotImplemented)."""
    limit = most if least is None else least
    if (least is not None and most is not None) or isinstance(limit, Tensor) or not x.is_floating_point():
        return NotImplemented
    number = torch.full((), limit, dtype=x.dtype, device=x.device)
    return torch.minimum(x, number) if least is None else torch.maximum(x, number)


def atan2(y: Tensor, x: Tensor) -> Tensor:
    """Return the angle of (x, y), from that of (|x|, |y|). Zeros have signs: the angle of (-1, 0) is pi."""
    y, x = _as_floats(y, x)
    slope = y.abs() / torch.where(x == 0, torch.ones_like(x), x.abs())
    slope = torch.where((x != 0) & (y.abs() == x.abs()), torch.ones_like(slope), slope)  # also of two infinities
    angle = torch.where((x == 0) & (y.abs() > 0), math.pi / 2, torch.atan(slope))
    angle = torch.where(_is_negative(x), math.pi - angle, angle)
    return torch.where(_is_negative(y), -angle, angle)


ELEMENTWISE: dict[Any, Callable[..., Any]] = {
    ATEN.add.Tensor: _add,
    ATEN.add.Scalar: _add,
    ATEN.atan2.default: atan2,
    ATEN.log1p.default: _log1p,
    ATEN.expm1.default: _expm1,
    ATEN.clamp.default: _clamp,
    ATEN.clip.default: _clamp,
    ATEN.clamp_min.default: _clamp,
    ATEN.clamp_max.default: lambda x, most: _clamp(x, None, most),
}
