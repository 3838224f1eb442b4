"""Merge neighbouring lambda groups where one range serves both as well as two.

The cost of a run of groups with one range: the squared error that its members have under that range, over the squared
error that they have under their own, as the geometric mean over all tensors. It is always taken against single groups,
so that small losses do not add up unseen. The cheapest pair of neighbours is merged, again and again, while it costs no
more than TOLERANCE.
"""

from collections.abc import Sequence
from dataclasses import replace
from functools import reduce

import numpy as np
from numpy.typing import NDArray

from fewstep.calibration.ranges.histogram import Histogram, merge
from fewstep.calibration.ranges.methods import LEVELS, Density, mse_range
from fewstep.calibration.ranges.observe import Counts
from fewstep.calibration.ranges.table import Range

TOLERANCE = 0.01  # of the squared error: 0.04 dB of each tensor's

Run = tuple[int, int]  # first group, and the one after the last


def merge_groups(counts: Counts, tolerance: float = TOLERANCE) -> Counts:
    """The same counts in fewer groups, or the same ones."""
    runs: list[Run] = [(group, group + 1) for group in range(len(counts.edges) + 1)]
    tensors = [counts.of(name) for name in counts.tensors]
    own = np.array(
        [[_error(mse_range(d), d) for d in map(_density, groups)] for groups in tensors]
    )  # [tensors, groups]
    costs = {run: _excess(tensors, own, run) for run in _joined(runs)}
    while costs and min(costs.values()) <= np.log1p(tolerance):
        best = min(costs, key=lambda run: costs[run])
        runs = [run for run in runs if run[1] <= best[0] or run[0] >= best[1]] + [best]
        runs.sort()
        costs = {run: costs[run] if run in costs else _excess(tensors, own, run) for run in _joined(runs)}
    return regrouped(counts, runs)


def regrouped(counts: Counts, runs: Sequence[Run]) -> Counts:
    """The counts with each run of groups as one."""
    histograms = {
        (name, number): reduce(merge, counts.of(name)[first:end])
        for name in counts.tensors
        for number, (first, end) in enumerate(runs)
    }
    return replace(counts, edges=tuple(counts.edges[first - 1] for first, _ in runs[1:]), histograms=histograms)


def _joined(runs: Sequence[Run]) -> list[Run]:
    return [(a[0], b[1]) for a, b in zip(runs[:-1], runs[1:], strict=True)]


def _excess(tensors: Sequence[tuple[Histogram, ...]], own: NDArray[np.float64], run: Run) -> float:
    """Logarithm of the cost of one range for a run of groups. Tensors that are exact anyway say nothing."""
    first, end = run
    logs = []
    for groups, errors in zip(tensors, own, strict=True):
        if errors[first:end].min() > 0:
            members = [_density(histogram) for histogram in groups[first:end]]
            shared = mse_range(Density.of(groups[first:end]))
            logs.append(np.log(sum(_error(shared, member) for member in members) / errors[first:end].sum()))
    return float(np.mean(logs)) if logs else 0.0


def _density(histogram: Histogram) -> Density:
    return Density.of([histogram])


def _error(shared: Range, density: Density) -> float:
    """Expected squared error of a distribution in the asymmetric code of a range."""
    scale = np.array([(shared.high - shared.low) / LEVELS])
    return max(float(density.error(scale, -np.round(-shared.low / scale))[0]), 0.0)
