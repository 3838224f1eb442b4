"""Refuse remainders and floor division of floats whose quotient torch.onnx rounds.

It writes floor(a / b), whose rounded quotient may reach the next whole number: it computes 1 // 0.1 as 10. torch's
result is 9, since 0.1 in float32 is a little more than a tenth.
"""

from collections.abc import Callable
from math import frexp, isfinite
from typing import Any

import torch
from torch import Tensor

from fewstep.export.error_text import MissingForm

ATEN = torch.ops.aten
REST = "rest = torch.fmod(a, b); rest = torch.where((rest != 0) & ((rest < 0) != (b < 0)), rest + b, rest)"
FIX = f"write a % b as {REST}, and a // b as torch.round((a - rest) / b)"


def _divide_down(a: Any, b: Any, *, rounding_mode: str | None = "floor") -> Any:
    """Return NotImplemented, which keeps the operation, if floor(a / b) is right: the operands are integers, or a is
    finite and b is a power of two, which only changes the exponent of a."""
    if rounding_mode != "floor" or not torch.result_type(a, b).is_floating_point:
        return NotImplemented
    if not isinstance(b, Tensor) and bool(b) and isfinite(b) and abs(frexp(b)[0]) == 0.5:
        return NotImplemented
    raise MissingForm(" of floats", FIX)


FLOAT_DIVISION: dict[Any, Callable[..., Any]] = dict.fromkeys(
    (
        ATEN.remainder.Tensor,
        ATEN.remainder.Scalar,
        ATEN.remainder.Scalar_Tensor,
        ATEN.floor_divide.default,
        ATEN.floor_divide.Scalar,
        ATEN.div.Tensor_mode,
        ATEN.div.Scalar_mode,
    ),
    _divide_down,
)
