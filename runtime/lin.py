"""`Lin`: a linear combination of buffers, the symbolic value a solver computes with while it is traced."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, NoReturn

from fewstep.runtime.errors import UserError


@dataclass(frozen=True, eq=False)
class Lin:
    """sum of coefficient x buffer; buffers are numbered by the tracer. Only what keeps it linear is defined."""

    terms: Mapping[int, float]

    __array_ufunc__ = None  # numpy scalars on the left defer to __rmul__ instead of making object arrays

    def __add__(self, other: Lin) -> Lin:
        if not isinstance(other, Lin):
            return NotImplemented
        terms = dict(self.terms)
        for buffer, coefficient in other.terms.items():
            terms[buffer] = terms.get(buffer, 0.0) + coefficient
        return Lin({buffer: coefficient for buffer, coefficient in terms.items() if coefficient != 0.0})

    def __sub__(self, other: Lin) -> Lin:
        if not isinstance(other, Lin):
            return NotImplemented
        return self + -other

    def __neg__(self) -> Lin:
        return -1.0 * self

    def __mul__(self, factor: float) -> Lin:
        if isinstance(factor, Lin):
            raise TypeError("the product of two states is not linear: this solver is no static plan")
        factor = float(factor)
        if not math.isfinite(factor):
            raise UserError(
                f"a solver's coefficient came out {factor} (lambda diverges where sigma or alpha is 0)",
                "use times with sigma > 0 and alpha > 0 there, or a solver that treats the ends",
            )
        return Lin({buffer: factor * coefficient for buffer, coefficient in self.terms.items() if factor != 0.0})

    __rmul__ = __mul__

    def __truediv__(self, divisor: float) -> Lin:
        return self * (1.0 / divisor)

    def _no_value(self, *_: Any) -> NoReturn:
        raise TypeError("a Lin has no value while a solver is traced: it cannot be compared or branched on")

    __bool__ = __eq__ = __ne__ = __lt__ = __le__ = __gt__ = __ge__ = __float__ = _no_value
    __hash__ = None  # type: ignore[assignment]
