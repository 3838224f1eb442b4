"""The error in finished samples that rounding each operation causes, measured on runs of one gated body
(`quantization_gates.py`).

Each run has some operations in int8 and all others in float. Errors of different operations are nearly uncorrelated, so
their squares add up. If there are more operations than runs, groups of neighbouring operations are measured together,
and the worst group is halved again and again: a few operations cause most of the error.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from fewstep.calibration.lowering.channel_equalization import equalize_weight, scale_inputs
from fewstep.calibration.lowering.encoding import Encoding
from fewstep.calibration.lowering.quantize import Quantizer, choose_encodings, select_measured_ops
from fewstep.calibration.lowering.scheme import Target
from fewstep.calibration.policy import POLICY
from fewstep.calibration.precision.quantization_gates import GATES, add_quantization_gates
from fewstep.calibration.ranges.table import RangesTable
from fewstep.graph.files.io import exceeds_one_file
from fewstep.graph.graph import Graph
from fewstep.graph.passes.split_attention import split_attention
from fewstep.graph.selection import WeightedOp
from fewstep.graph.session import open_session
from fewstep.measure.rollouts.metrics import Floats
from fewstep.measure.rollouts.row_by_row import run_row_by_row
from fewstep.runtime.backends import Arrays, LoadedGraph

Array = NDArray[np.float64]


class MeasuredSamples(Protocol):
    """What float32 makes along a run, and what other graphs make, one for each range group."""

    @property
    def groups(self) -> int: ...

    @property
    def sample(self) -> Floats: ...

    def run_samples(self, graphs: Sequence[LoadedGraph], /) -> Floats: ...


@dataclass(frozen=True)
class OperationErrors:
    """The mean squared error of samples that each of `operations` causes in int8. `signal` is the variance of float32's
    samples."""

    operations: tuple[str, ...]
    errors: Array
    signal: float


def measure_operation_errors(
    prepared: Graph,
    table: RangesTable,
    target: Target,
    measured: MeasuredSamples,
    quantize: Quantizer | None,
    runs: int,
    remainder: float = POLICY.remainder,
) -> OperationErrors:
    """Measure the errors along a recorded run, or those of a decoder.

    `quantize` rounds weights. With None weights stay in float, and the errors exclude their rounding; use None for
    large networks, to avoid a second copy of the weights. `runs` is the maximum number of runs. `remainder` is passed
    to `attribute_errors`.
    """
    ops = select_measured_ops(prepared, table, target.scheme)
    codes = choose_encodings(prepared, table, ops, target.scheme)
    weights = {} if quantize is None else {op.name: round_weight(op, prepared, codes, quantize) for op in ops}
    is_small = not exceeds_one_file(prepared)
    gated = add_quantization_gates(prepared, ops, codes, target.scheme, weights)
    graph = split_attention(gated) if is_small else _hold_few_scores(gated)
    session = open_session(graph, optimize=is_small, arena=True, fuse_qdq=False)
    gated_graph = session if is_small else run_row_by_row(session, graph.inputs)

    def samples(numbers: Sequence[int]) -> Array:
        """Return finished samples with these operations in int8."""
        gates = np.zeros(len(ops), np.float32)
        gates[list(numbers)] = 1

        def run(feeds: Arrays) -> dict[str, NDArray[np.float32]]:
            return gated_graph({**feeds, GATES: gates})

        return measured.run_samples([run] * measured.groups).astype(np.float64)

    exact = measured.sample.astype(np.float64)
    found = attribute_errors(
        lambda numbers: float(np.square(samples(numbers) - exact).mean()), len(ops), runs, remainder
    )
    return OperationErrors(tuple(op.name for op in ops), found, float(exact.var()))


def _hold_few_scores(graph: Graph) -> Graph:
    from fewstep.graph.passes.contrib_attention import hold_few_scores  # for large networks alone

    return hold_few_scores(graph)


def attribute_errors(
    error: Callable[[Sequence[int]], float], count: int, runs: int, remainder: float = POLICY.remainder
) -> Array:
    """Return the error that each of `count` items causes, [count]. A call of `error` measures the error of any group of
    items together; at most `runs` calls are made.

    If there are enough calls, each item is measured separately. Otherwise the groups with the largest errors are
    halved, and the items of a group share its error equally. A half is not measured if the other half has less than the
    fraction `remainder` of the group's error.
    """
    if count <= runs:
        return np.array([error((number,)) for number in range(count)])
    everything = tuple(range(count))
    groups, left = {everything: error(everything)}, runs - 1
    while left >= 2 and (several := [group for group in groups if len(group) > 1]):
        worst = max(several, key=groups.__getitem__)
        shared, middle = groups.pop(worst), len(worst) // 2
        first, second = worst[:middle], worst[middle:]
        groups[first] = error(first)
        is_rest = groups[first] < remainder * shared
        groups[second] = shared - groups[first] if is_rest else error(second)
        left -= 1 if is_rest else 2
    shares = np.empty(count)
    for group, shared in groups.items():
        shares[list(group)] = shared / len(group)
    return shares


def round_weight(
    op: WeightedOp, prepared: Graph, codes: Mapping[str, Encoding], quantize: Quantizer
) -> NDArray[np.float32]:
    """Return a weight after rounding to int8 and back. If the lowered operation's input is multiplied and its weight
    divided by the same multipliers, the division is undone, for an operation whose input is not multiplied."""
    numbers = codes[op.x].multipliers
    weight = quantize(op, equalize_weight(op, prepared, codes), numbers).dequantize()
    return weight if numbers is None else scale_inputs(np.multiply, weight, op, numbers)
