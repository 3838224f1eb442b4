"""Arithmetic on symbolic sizes while torch traces: a quotient that does not depend on a size becomes a number, and
sizes have roots."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any
from unittest.mock import patch

import sympy  # type: ignore[import-untyped]
import torch
from onnxscript import FLOAT
from onnxscript import opset20 as op


@contextmanager
def simplify_sizes() -> Iterator[None]:
    """Inside the block, let torch's symbolic sizes support quotients and roots like numbers.

    torch keeps `norm.numel() / x.numel()` as a quotient of symbols, although the batch cancels, and a root of it would
    then fix the batch. numpy takes the root of an object by its method `sqrt`, which torch's symbols lack.
    """
    with (
        patch.object(torch.SymInt, "__truediv__", _make_quotient(torch.SymInt.__truediv__)),
        patch.object(torch.SymInt, "sqrt", torch.sym_sqrt, create=True),
        patch.object(torch.SymFloat, "sqrt", torch.sym_sqrt, create=True),
    ):
        yield


def _make_quotient(divided: Any) -> Any:
    def quotient(size: torch.SymInt, other: Any) -> Any:
        if isinstance(other, torch.SymInt):
            ratio = sympy.cancel(size.node.expr / other.node.expr)
            if ratio.is_number:
                return float(ratio)
        return divided(size, other)

    return quotient


def _root(size: FLOAT) -> FLOAT:
    """Return the square root of a free size."""
    root: Any = op.Sqrt(op.Cast(size, to=FLOAT.dtype))  # type: ignore[type-var]
    return root


FORMS: dict[Any, Any] = {torch.sym_sqrt: _root}  # operations for which torch.onnx has no form
