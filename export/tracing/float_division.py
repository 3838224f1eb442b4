"""Remainders and floor division of floats, as torch computes them: from the exact remainder, that of C's fmod.

torch.onnx writes floor(a / b), whose rounded quotient may reach the next whole number: it computes 1 // 0.1 as 10.
torch's result is 9, since 0.1 in float32 is a little more than a tenth.
"""

from collections.abc import Callable
from math import frexp, isfinite
from typing import Any

import torch
from torch import Tensor

ATEN = torch.ops.aten


def _remainder(a: Any, b: Any) -> Any:
    """Return the remainder of floor division, with the sign of b."""
    if _is_exact(a, b):
        return NotImplemented
    a, b = _as_tensors(a, b)
    rest = torch.fmod(a, b)
    return torch.where(_is_below(rest, b), rest + b, rest)


def _floor_divide(a: Any, b: Any) -> Any:
    """Return floor(a / b) of the exact quotient. The remainder is subtracted from a before the division, so the
    quotient is a whole number up to rounding."""
    if _is_exact(a, b):
        return NotImplemented
    a, b = _as_tensors(a, b)
    rest = torch.fmod(a, b)
    whole = torch.round((a - rest) / b)
    return torch.where(b == 0, a / b, torch.where(_is_below(rest, b), whole - 1, whole))


def _divide(a: Any, b: Any, *, rounding_mode: str | None = None) -> Any:
    return _floor_divide(a, b) if rounding_mode == "floor" else NotImplemented


def _is_exact(a: Any, b: Any) -> bool:
    """Return whether floor(a / b) is right: the operands are integers, or a is finite and b is a power of two, which
    only changes the exponent of a."""
    if not torch.result_type(a, b).is_floating_point:
        return True
    return not isinstance(b, Tensor) and bool(b) and isfinite(b) and abs(frexp(b)[0]) == 0.5


def _as_tensors(a: Any, b: Any) -> tuple[Tensor, Tensor]:
    """Return both operands as tensors of the type that torch gives to a result of the two."""
    kind = torch.result_type(a, b)
    device = next(operand.device for operand in (a, b) if isinstance(operand, Tensor))
    first, second = (
        operand.to(kind) if isinstance(operand, Tensor) else torch.full((), operand, dtype=kind, device=device)
        for operand in (a, b)
    )
    return first, second


def _is_below(rest: Tensor, b: Tensor) -> Tensor:
    """Return whether the floor is one below the truncated quotient: the remainder `rest` is not 0, and its sign differs
    from b's."""
    return (rest != 0) & ((rest < 0) != (b < 0))


FLOAT_DIVISION: dict[Any, Callable[..., Any]] = {
    ATEN.remainder.Tensor: _remainder,
    ATEN.remainder.Scalar: _remainder,
    ATEN.remainder.Scalar_Tensor: _remainder,
    ATEN.floor_divide.default: _floor_divide,
    ATEN.floor_divide.Scalar: _floor_divide,
    ATEN.div.Tensor_mode: _divide,
    ATEN.div.Scalar_mode: _divide,
}
