"""Arithmetic on symbolic sizes while torch traces: a quotient that does not depend on a size becomes a number, sizes
have roots, and a list of one number or tuple can be repeated by a size."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from typing import Any
from unittest.mock import patch

import sympy  # type: ignore[import-untyped]
import torch
from onnxscript import FLOAT
from onnxscript import opset20 as op


@contextmanager
def simplify_sizes() -> Iterator[None]:
    """Inside the block, let torch's symbolic sizes support quotients, roots and repeated lists like numbers.

    torch keeps `norm.numel() / x.numel()` as a quotient of symbols, although the batch cancels, and a root of it would
    then fix the batch. numpy takes the root of an object by its method `sqrt`, which torch's symbols lack. Python
    repeats a list by an integer, so that `[(height, width)] * x.shape[0]` would fix the batch too.
    """
    with (
        patch.object(torch.SymInt, "__rmul__", _make_product(torch.SymInt.__rmul__)),
        patch.object(torch.SymInt, "__truediv__", _make_quotient(torch.SymInt.__truediv__)),
        patch.object(torch.SymInt, "__mod__", _make_remainder(torch.SymInt.__mod__)),
        patch.object(torch.SymInt, "__floordiv__", _make_whole_quotient(torch.SymInt.__floordiv__)),
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


def _make_remainder(remainder: Any) -> Any:
    """Return `size % divisor`. A negative size, as in the padding `(-height) % 8`, has no valid range in torch."""

    def take_remainder(size: torch.SymInt, divisor: Any) -> Any:
        if not _is_negative(size) or not isinstance(divisor, int) or divisor < 1:
            return remainder(size, divisor)
        return remainder(divisor - remainder(-size, divisor), divisor)

    return take_remainder


def _make_whole_quotient(quotient: Any) -> Any:
    """Return `size // divisor`. A negative size, as in `-(-height // 8)`, is rounded up without its sign."""

    def divide(size: torch.SymInt, divisor: Any) -> Any:
        if not _is_negative(size) or not isinstance(divisor, int) or divisor < 1:
            return quotient(size, divisor)
        return -quotient(-size + divisor - 1, divisor)

    return divide


def _is_negative(size: torch.SymInt) -> bool:
    """Return whether a size is a negative multiple of symbols."""
    expression = size.node.expr
    return isinstance(expression, sympy.Mul) and bool(expression.args[0].is_negative)


@dataclass(frozen=True)
class RepeatedEntry(Sequence[Any]):
    """A list that repeats one number or tuple as many times as a symbolic size, such as `[0] * x.shape[0]`. Reading its
    first entry, or making a tensor of it (`torch_functions`), leaves the size free; any other use fixes the size to a
    number."""

    entry: float | tuple[Any, ...]
    size: torch.SymInt

    def __getitem__(self, index: Any) -> Any:
        return self.entry if isinstance(index, int) and index == 0 else self.expand()[index]

    def __len__(self) -> int:
        return int(self.size)

    def __add__(self, other: list[Any]) -> list[Any]:
        return self.expand() + list(other)

    def __radd__(self, other: list[Any]) -> list[Any]:
        return other + self.expand()

    def __setitem__(self, index: Any, value: Any) -> None:
        self.expand()[index] = value

    def __getattr__(self, name: str) -> Any:
        """Return another method of a list, such as append."""
        return partial(getattr(list, name), self.expand())

    def expand(self) -> list[Any]:
        """Return the list, which fixes the size."""
        return [self.entry] * int(self.size)


def _make_product(multiplied: Any) -> Any:
    def product(size: torch.SymInt, other: Any) -> Any:
        is_one = type(other) is list and len(other) == 1 and isinstance(other[0], float | int | tuple)
        if is_one and size.node.maybe_as_int() is None:
            return RepeatedEntry(other[0], size)
        return multiplied(size, other)

    return product


def _root(size: FLOAT) -> FLOAT:
    """Return the square root of a free size."""
    root: Any = op.Sqrt(op.Cast(size, to=FLOAT.dtype))  # type: ignore[type-var]
    return root


FORMS: dict[Any, Any] = {torch.sym_sqrt: _root}  # operations for which torch.onnx has no form
