"""Merge neighbouring lambda groups where one range serves both as well as two.

The cost of a run of groups with one range: the squared error that its members have under that range, over the squared
error that they have under their own, as the geometric mean over all tensors. Ranges are those of the method that the
table will be made by, and a tensor costs what it costs in the worst of the codes that it may be written in; one of them
is that with a scale for each channel, whose error is that of rounding. The cost is always taken against single groups,
so that small losses do not add up unseen. The cheapest pair of neighbours is merged, again and again, while it costs no
more than TOLERANCE.
"""

from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import reduce

import numpy as np
from numpy.typing import NDArray

from fewstep.ranges.channels import by_channel
from fewstep.ranges.histogram import Histogram, merge
from fewstep.ranges.methods import BY_CHANNEL, METHODS, Density
from fewstep.ranges.observe import Counts
from fewstep.ranges.table import LEVELS, Method

TOLERANCE = 0.01  # of the squared error: 0.04 dB of each tensor's

Run = tuple[int, int]  # first group, and the one after the last
Quantizer = tuple[NDArray[np.float64], NDArray[np.float64]]  # scale and least integer, [1] each
Code = Callable[[Density], Quantizer]  # with the range that a method finds for a distribution


def merge_groups(counts: Counts, method: Method, has_symmetric: bool, tolerance: float = TOLERANCE) -> Counts:
    """The same counts in fewer groups, or the same ones.

    `method` finds the ranges; `has_symmetric` says whether a target may write an activation in the symmetric code.
    """
    runs: list[Run] = [(group, group + 1) for group in range(len(counts.edges) + 1)]
    codes = (_asymmetric(method), _symmetric(method))[: 2 if has_symmetric else 1]
    tensors = [counts.of(name) for name in counts.tensors]
    own = np.array(
        [[[_error(code(d), d) for d in map(_density, groups)] for groups in tensors] for code in codes]
    )  # [codes, tensors, groups]
    spans = [_spans(groups, counts.samples) if method in BY_CHANNEL else None for groups in tensors]

    def excess(run: Run) -> float:
        return _excess(tensors, codes, own, spans, run)

    costs = {run: excess(run) for run in _joined(runs)}
    while costs and min(costs.values()) <= np.log1p(tolerance):
        best = min(costs, key=lambda run: costs[run])
        runs = [run for run in runs if run[1] <= best[0] or run[0] >= best[1]] + [best]
        runs.sort()
        costs = {run: costs[run] if run in costs else excess(run) for run in _joined(runs)}
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


def _excess(
    tensors: Sequence[tuple[Histogram, ...]],
    codes: Sequence[Code],
    own: NDArray[np.float64],
    spans: Sequence[NDArray[np.float64] | None],
    run: Run,
) -> float:
    """Logarithm of the cost of one range for a run of groups. Tensors that are exact anyway say nothing."""
    first, end = run
    logs = []
    # errors [codes, members]
    for groups, errors, ends in zip(tensors, own[:, :, first:end].swapaxes(0, 1), spans, strict=True):
        if errors.min() > 0:
            members, all_of_them = [_density(each) for each in groups[first:end]], Density.of(groups[first:end])
            shared = [sum(_error(code(all_of_them), member) for member in members) for code in codes]
            ratios = list(shared / errors.sum(axis=1))
            if ends is not None:
                ratios.append(_width(ends[first:end].max(axis=0)) ** 2 / np.mean(_width(ends[first:end]) ** 2))
            logs.append(np.log(np.max(ratios)))
    return float(np.mean(logs)) if logs else 0.0


def _spans(groups: Sequence[Histogram], samples: int) -> NDArray[np.float64] | None:
    """How far x / s reaches below and above zero in each group [groups, 2]; None without scales of channels."""
    own = by_channel(groups, samples)
    return None if own is None else np.array([(-ends.low, ends.high) for ends in own.ranges.per_group])


def _width(ends: NDArray[np.float64]) -> NDArray[np.float64]:
    width: NDArray[np.float64] = ends.sum(axis=-1)
    return width


def _density(histogram: Histogram) -> Density:
    return Density.of([histogram])


def _asymmetric(method: Method) -> Code:
    find, _ = METHODS[method]

    def quantizer(density: Density) -> Quantizer:
        found = find(density)
        scale = np.array([(found.high - found.low) / LEVELS])
        return scale, -np.round(-found.low / scale)

    return quantizer


def _symmetric(method: Method) -> Code:
    _, find = METHODS[method]
    return lambda density: (np.array([find(density) / 127]), np.array([-128.0]))


def _error(quantizer: Quantizer, density: Density) -> float:
    """Expected squared error of a distribution."""
    return max(float(density.error(*quantizer)[0]), 0.0)
