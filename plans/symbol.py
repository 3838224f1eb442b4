"""`Lin` is a linear combination of buffers: the symbolic value of a solver's arithmetic while it is traced."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any, NoReturn

import numpy as np
from numpy.typing import NDArray

from fewstep.plans.errors import UserError

Coefficient = float | NDArray[np.float64]  # one number, or one for each element of a sample (shaped as x_shape)


@dataclass(frozen=True, eq=False)
class Lin:
    """A linear combination: the sum of coefficient x buffer, by the numbers that the tracer gives to buffers. Only
    linear operations are defined."""

    terms: Mapping[int, Coefficient]

    __array_ufunc__ = None  # numpy values on the left defer to __rmul__ instead of creating object arrays

    def __post_init__(self) -> None:
        object.__setattr__(self, "terms", MappingProxyType(self.terms))  # read-only, since the tracer keeps values

    def __add__(self, other: Lin) -> Lin:
        if not isinstance(other, Lin):
            return NotImplemented
        terms = dict(self.terms)
        for buffer, coefficient in other.terms.items():
            terms[buffer] = total = terms[buffer] + coefficient if buffer in terms else coefficient
            if is_zero(total):
                del terms[buffer]
        return Lin(terms)

    def __radd__(self, other: float) -> Lin:
        """Add to 0, with which `sum` of a list of values begins."""
        return self if isinstance(other, int | float) and other == 0 else NotImplemented

    def __sub__(self, other: Lin) -> Lin:
        if not isinstance(other, Lin):
            return NotImplemented
        return self + -other

    def __neg__(self) -> Lin:
        return -1.0 * self

    def __mul__(self, factor: Coefficient) -> Lin:
        if type(factor) is float:  # numpy's float64 is a float too, but the JSON encoder does not accept it
            is_finite = math.isfinite(factor)
        elif isinstance(factor, Lin):
            raise TypeError("the product of two states is not linear: this solver has no static plan")
        elif isinstance(factor, np.ndarray) and factor.ndim:
            is_finite = bool(np.isfinite(factor).all())
        else:
            factor = float(factor)
            is_finite = math.isfinite(factor)
        if not is_finite:
            raise UserError(
                f"a solver's coefficient is {factor} (lambda diverges where sigma or alpha is 0, or two times are too "
                "close)",
                "use times with sigma > 0 and alpha > 0 there, or a solver that handles both ends",
            )
        if is_zero(factor):
            return Lin({})
        if isinstance(factor, float) and factor == 1.0:
            return self
        return Lin({buffer: factor * coefficient for buffer, coefficient in self.terms.items()})

    __rmul__ = __mul__

    def __truediv__(self, divisor: Coefficient) -> Lin:
        return self * (1.0 / divisor)

    def _refuse_value(self, *_: Any) -> NoReturn:
        raise TypeError("a Lin has no value while a solver is traced: it cannot be compared or branched on")

    __bool__ = __eq__ = __ne__ = __lt__ = __le__ = __gt__ = __ge__ = __float__ = _refuse_value
    __hash__ = None  # type: ignore[assignment]


def weighted_sum(weights: Iterable[float], values: Iterable[Lin]) -> Lin:
    """Return the weighted sum of values."""
    total = Lin({})
    for weight, value in zip(weights, values, strict=True):
        total = total + weight * value
    return total


def is_zero(coefficient: Coefficient) -> bool:
    """True if a term with this coefficient is zero and can be left out."""
    return coefficient == 0.0 if isinstance(coefficient, float) else not np.any(coefficient)
