"""Empirical model statistics (Zheng, Lu, Chen, Zhu 2023, arXiv 2310.13268): what DPM-Solver-v3 knows of a denoiser.

With l, s, b over lambda, each shaped as a sample, the noise prediction along a trajectory is

    sigma eps = l x + alpha f,    df / d lambda close to s f + b,

so that f, all that is left to approximate, moves as little as one linear law can make it. l = 1, s = b = 0 leaves
f = -x0, which is DPM-Solver++. For Gaussian data f is known, and any step is exact.
"""

from dataclasses import dataclass
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from fewstep.plans.errors import UserError
from fewstep.plans.solvers.multistep import lagrange

Array = NDArray[np.float64]
WINDOW = 6  # points of the polynomials that tables are integrated and read by


@dataclass(frozen=True, eq=False)
class Ems:
    """`lams` [n], increasing; `l`, `s`, `b` [n, ...], each line broadcast to a sample. n of 6 and more, 100 and more to
    be accurate."""

    lams: Array
    l: Array  # noqa: E741 (the paper's name)
    s: Array
    b: Array

    def __post_init__(self) -> None:
        tables = (self.l, self.s, self.b)
        if (
            len(self.lams) < WINDOW
            or not np.all(np.diff(self.lams) > 0)
            or any(len(t) != len(self.lams) for t in tables)
        ):
            raise UserError(
                f"statistics over {len(self.lams)} lambdas with tables of {[len(t) for t in tables]}",
                f"give {WINDOW} or more increasing lambdas, and a line of each table for each",
            )

    @cached_property
    def L(self) -> Array:
        """int l, from the first lambda."""
        return integrated(self.l, self.lams)

    @cached_property
    def S(self) -> Array:
        """int s."""
        return integrated(self.s, self.lams)

    @cached_property
    def B(self) -> Array:
        """int e^-S b."""
        return integrated(np.exp(-self.S) * self.b, self.lams)

    def at(self, lams: Array, *tables: Array) -> list[Array]:
        """Tables between their lambdas: of each a line for each of `lams` [P]."""
        slack = 1e-9 * (1 + np.abs(lams))
        outside = (lams < self.lams[0] - slack) | (lams > self.lams[-1] + slack)
        if outside.any():
            raise UserError(
                f"lambda {lams[outside][0]:.4g} is outside the statistics' {self.lams[0]:.4g} .. {self.lams[-1]:.4g}",
                "estimate them over the whole range of the plan",
            )
        starts = [_window(self.lams, after).start for after in np.searchsorted(self.lams, lams)]
        nodes = self.lams[np.array(starts)[:, None] + np.arange(WINDOW)]
        gaps = nodes[:, :, None] - nodes[:, None, :] + np.eye(WINDOW)
        away = np.where(np.eye(WINDOW, dtype=bool), 1.0, (lams[:, None] - nodes)[:, None, :])
        weights = np.prod(away / gaps, axis=2)  # Lagrange's, at each of lams
        made = []
        for table in tables:
            flat = table.reshape(len(table), -1)
            lines = np.array([weight @ flat[a : a + WINDOW] for weight, a in zip(weights, starts, strict=True)])
            made.append(lines.reshape(len(lams), *table.shape[1:]))
        return made


def integrated(table: Array, lams: Array) -> Array:
    """The integral of a table from its first lambda to each, by the polynomial through the points around each gap."""
    gauss, weights = np.polynomial.legendre.leggauss(WINDOW // 2)
    steps = [np.zeros_like(table[0])]
    for i, (low, high) in enumerate(zip(lams, lams[1:])):
        window = _window(lams, i + 1)
        points = low + (high - low) * (gauss + 1) / 2
        share = lagrange(list(lams[window]), points) @ weights * (high - low) / 2
        steps.append(np.tensordot(share, table[window], 1))
    return np.cumsum(steps, axis=0)


def _window(lams: Array, after: int) -> slice:
    """`WINDOW` points around the gap that ends at point `after`."""
    start = int(min(max(after - WINDOW // 2, 0), len(lams) - WINDOW))
    return slice(start, start + WINDOW)
