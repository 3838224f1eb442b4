"""Coefficients of the steps that share one Loop body, as tables in which the body looks up the row of the current
step."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fewstep.graph.builder import Builder
from fewstep.graph.graph import Node

Values = NDArray[Any] | Sequence[float]


@dataclass
class StepNumbers:
    """Builds tables of coefficients, one per dtype, for steps that share one graph. A column has one coefficient for
    each of S steps."""

    inner: Builder
    columns: dict[str, list[NDArray[Any]]] = field(default_factory=dict)

    @property
    def number(self) -> str:
        """The name of the tensor int64 []: the number of the step."""
        return f"{self.inner.prefix}/number"

    def float(self, values: Values) -> str:
        """Return the name of a float32 tensor [1]: the element of `values` [S] for the current step."""
        return self._column(values, "float32")

    def double(self, values: Values) -> str:
        """Return the name of a float64 tensor [1]: the element of `values` [S] for the current step."""
        return self._column(values, "float64")

    def integer(self, values: Values) -> str:
        """Return the name of an int64 tensor [1]: the element of `values` [S] for the current step."""
        return self._column(values, "int64")

    def scalar(self, values: Values) -> str:
        """Return the name of an int64 scalar: the element of `values` [S] for the current step."""
        number = self.integer(values)
        return self.inner.node("Squeeze", (number,), f"{number.rpartition('/')[2]}_scalar")

    def look_up(self) -> list[Node]:
        """Return the nodes that look up the coefficients of the current step. They must be the first nodes of the
        graph."""
        nodes = []
        for dtype, columns in self.columns.items():
            table = self.inner.constant(np.stack(columns, axis=1), f"{dtype}s")
            line = f"{self.inner.prefix}/{dtype}s_now"
            nodes.append(Node("Gather", (table, self.number), (line,), {"axis": 0}))
            names = tuple(f"{self.inner.prefix}/{dtype}_{j}" for j in range(len(columns)))
            nodes.append(Node("Split", (line,), names, {"axis": 0, "num_outputs": len(names)}))
        return nodes

    def _column(self, values: Values, dtype: str) -> str:
        columns = self.columns.setdefault(dtype, [])
        columns.append(np.asarray(values, dtype))
        return f"{self.inner.prefix}/{dtype}_{len(columns) - 1}"


class ConstantNumbers(StepNumbers):
    """The coefficients of a single step, written into the graph as constants."""

    def _column(self, values: Values, dtype: str) -> str:
        columns = self.columns.setdefault(dtype, [])
        columns.append(np.asarray(values, dtype))
        return self.inner.constant(columns[-1], f"{dtype}_{len(columns) - 1}")
