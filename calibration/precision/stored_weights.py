"""Bodies in which only weights are quantized: 8 bits for each, or 4 bits for most weights of matrix products.

The error that the coarsest form of each weight causes in finished samples is measured as for int8
(`operation_errors.py`). The weights with the most error per added byte then take the next finer form: 8 bits instead of
4, or float instead of 8.
"""

import logging
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from fewstep.calibration.lowering.coverage import count_coverage
from fewstep.calibration.lowering.gptq import correct_rounding, round_in_groups
from fewstep.calibration.lowering.quantize import LoweredBody
from fewstep.calibration.lowering.scheme import Target
from fewstep.calibration.policy import CalibrationPolicy
from fewstep.calibration.precision.mixed_precision import default_float_count
from fewstep.calibration.precision.operation_errors import OperationErrors, attribute_errors
from fewstep.calibration.precision.ranking import Ranking, rank_operations
from fewstep.calibration.precision.recipe import OtherGraph
from fewstep.calibration.ranges.moments import Moments
from fewstep.graph.files.weights import release_array
from fewstep.graph.graph import Graph
from fewstep.graph.grouped_weights import group_size
from fewstep.graph.passes.contrib_attention import hold_few_scores
from fewstep.graph.passes.stored_weights import (
    StoredWeight,
    can_have_4_bits,
    nearest_int4,
    nearest_int8,
    not_finite,
    select_stored_ops,
    store_weights,
    stored_bytes,
)
from fewstep.graph.selection import WeightedOp, layer_name
from fewstep.measure.rollouts.recorded_run import RecordedRun
from fewstep.measure.rollouts.row_by_row import run_row_by_row
from fewstep.plans.errors import UserError
from fewstep.runtime.bundle.platforms import INT8_WEIGHTS

LOG = logging.getLogger("fewstep")
FLOAT_BITS = 32
FINER = {4: 8, 8: FLOAT_BITS}  # bits of the next finer form

Bits = Mapping[str, int]  # by `WeightedOp.code`: 4 or 8; weights that are missing stay float


@dataclass(frozen=True)
class RoundedWeights:
    """Rounds the weights of a graph, each once for each number of bits: by the second moments of their inputs
    (`gptq.py`) where there are any, otherwise to the nearest. Attention holds few scores (`hold_few_scores`)."""

    prepared: Graph
    moments: Moments
    _rounded: dict[tuple[str, int], StoredWeight] = field(default_factory=dict)

    def store(self, bits: Bits) -> Graph:
        """Return the graph with weights of these bits. Raises UserError if a weight is not finite."""
        return store_weights(
            self.prepared, lambda op: self._round(op, bits[op.code]) if op.code in bits else None, self._form
        )

    @cached_property
    def _form(self) -> Graph:
        return hold_few_scores(self.prepared)

    def _round(self, op: WeightedOp, bits: int) -> StoredWeight:
        key = op.code, bits
        if key not in self._rounded:
            self._rounded[key] = self._round_to_4_bits(op) if bits == 4 else self._round_to_8_bits(op)
            release_array(self.prepared.constants[op.weight])
        return self._rounded[key]

    def _round_to_4_bits(self, op: WeightedOp) -> StoredWeight:
        if (moments := self.moments.get(op.code)) is None:
            return nearest_int4(op, self.prepared)
        try:
            return round_in_groups(self.prepared.constants[op.weight], op, moments, group_size(op.channels_in))
        except ValueError as error:
            raise not_finite(op, error) from None

    def _round_to_8_bits(self, op: WeightedOp) -> StoredWeight:
        nearest, moments = nearest_int8(op, self.prepared), self.moments.get(op.code)
        if moments is None:
            return nearest
        return correct_rounding(nearest, self.prepared.constants[op.weight], op, moments, None)


@dataclass(frozen=True)
class WeightRecipe:
    """Everything from which a body is made whose weights alone are quantized.

    bits: of each weight.
    groups: number of range groups of the plan, all of which the graph serves.
    keep: moves the weights of the graph to files; None to keep them in memory.
    replaces: graphs that the body runs instead of shared ones, by name.
    """

    target: Target
    rounded: RoundedWeights
    bits: Bits
    groups: int
    keep: Callable[[Graph], Graph] | None = None
    replaces: Mapping[str, OtherGraph] = field(default_factory=dict)
    table = None

    @property
    def prepared(self) -> Graph:
        return self.rounded.prepared

    @cached_property
    def graphs(self) -> tuple[tuple[int, LoweredBody], ...]:
        """The graph to deploy, as in `Recipe.graphs`."""
        graph = self.rounded.store(self.bits)
        graph = graph if self.keep is None else self.keep(graph)
        body = LoweredBody(graph, count_coverage(self.prepared, ()), (), (self._describe_sizes(graph),))
        return ((self.groups, body),)

    @property
    def in_float(self) -> tuple[str, ...]:
        """The operations whose weights could be stored in 8 bits, but stay float."""
        return tuple(op.name for op in select_stored_ops(self.prepared) if op.code not in self.bits)

    def _describe_sizes(self, graph: Graph) -> str:
        """Return "weights of 1.2 MB, 0.13 of float32: 40 of 4 bits, 3 of 8 bits, 2 float". A target of 4 bits without
        any such weight says so."""
        sizes = [constant_bytes(version) for version in (graph, self.prepared)]
        counts = [f"{sum(width == bits for width in self.bits.values())} of {bits} bits" for bits in (4, 8)]
        left = len({op.code for op in select_stored_ops(self.prepared)} - self.bits.keys())
        described = ", ".join(
            [count for count in counts if not count.startswith("0 ")] + [f"{left} float"] * (left > 0)
        )
        if (least := self.target.scheme.weight_bits) not in (None, *self.bits.values()):  # finer ones cost few bytes
            described += f", none of {least} bits: the weights of {INT8_WEIGHTS.name}"
        return f"weights of {sizes[0] / 1e6:.3g} MB, {sizes[0] / sizes[1]:.2f} of float32: {described}"


def weight_owners(prepared: Graph) -> dict[str, WeightedOp]:
    """Return the operations whose weights can be stored in 8 bits, the first of those that share one, by code."""
    owners: dict[str, WeightedOp] = {}
    for op in select_stored_ops(prepared):
        owners.setdefault(op.code, op)
    return owners


def coarsest_bits(target: Target, prepared: Graph, kept: Sequence[str] = ()) -> dict[str, int]:
    """Return the fewest bits of each weight for a target. Weights of the operations `kept` stay float.

    Raises UserError if the target has 4 bits and no weight can have them, or if no weight is left.
    """
    ops = select_stored_ops(prepared)
    in_float = {op.code for op in ops if op.name in kept}
    never = {op.code for op in ops if not can_have_4_bits(op, prepared)}
    least = target.scheme.weight_bits
    bits = {op.code: 8 if op.code in never else least or 8 for op in ops if op.code not in in_float}
    if not bits:
        fix = "keep fewer operations in float" if in_float else "use --precision float32"
        raise UserError(f"no weight of graph {prepared.name!r} can be stored in 8 bits", fix)
    if least not in bits.values():
        raise UserError(
            f"no weight of graph {prepared.name!r} can be stored in {least} bits, which only matrix products have",
            f"store 8 bits: --target {INT8_WEIGHTS.name}",
        )
    return bits


def refine_bits(recipe: WeightRecipe, recorded: RecordedRun, runs: int, policy: CalibrationPolicy) -> WeightRecipe:
    """Return the recipe with finer weights where few more bytes remove much of the error of samples. The errors are
    measured in at most `runs` runs along the recorded one."""
    codes, ranking = rank_finer(recipe, recorded, runs, policy)
    of_bytes = replace(
        policy, price=policy.byte_price, nearly_free=policy.nearly_free_bytes, furthest=float(ranking.time[-1])
    )
    finer = {code: FINER[recipe.bits[code]] for code in codes[: default_float_count(ranking, of_bytes)]}
    owners = weight_owners(recipe.prepared)
    for code in finer:
        LOG.info("%s: %s has %d bits", recipe.target.name, layer_name(owners[code].node), finer[code])
    bits = {code: bits for code, bits in {**recipe.bits, **finer}.items() if bits < FLOAT_BITS}
    return replace(recipe, bits=bits)


def rank_finer(
    recipe: WeightRecipe, recorded: RecordedRun, runs: int, policy: CalibrationPolicy
) -> tuple[tuple[str, ...], Ranking]:
    """Return the coarsest weights by code, in the order in which they take the next finer form, and their ranking,
    whose times are shares of bytes. Parameters are those of `refine_bits`."""
    owners = weight_owners(recipe.prepared)
    least = min(recipe.bits.values())
    coarse = tuple(code for code, bits in recipe.bits.items() if bits == least)
    exact = recorded.sample.astype(np.float64)

    def error(numbers: Sequence[int]) -> float:
        """Return the error of samples if only these weights are coarse, and all others are float."""
        graph = recipe.rounded.store({coarse[number]: least for number in numbers})
        network = run_row_by_row(recipe.target.runs(graph), graph.inputs)
        states = recorded.run([network] * recorded.groups)
        return float(np.square(recorded.final_samples(states).astype(np.float64) - exact).mean())

    errors = attribute_errors(error, len(coarse), runs, policy.remainder)
    measured = OperationErrors(tuple(owners[code].name for code in coarse), errors, float(exact.var()))
    ranking = rank_operations(measured, _bytes_of_next_form(recipe, [owners[code] for code in coarse]))
    return tuple(coarse[number] for number in ranking.order), ranking


def constant_bytes(*graphs: Graph) -> int:
    """Return the bytes of all constants of graphs."""
    return sum(array.nbytes for graph in graphs for array in graph.constants.values())


def _bytes_of_next_form(recipe: WeightRecipe, ops: Sequence[WeightedOp]) -> NDArray[np.float64]:
    """Return the bytes that the next finer form of each weight adds, as a fraction of the body's bytes."""
    weights = recipe.prepared.constants
    sizes = {op.code: stored_bytes(weights[op.weight], recipe.bits.get(op.code, FLOAT_BITS)) for op in ops}
    total = constant_bytes(recipe.rounded.store(recipe.bits))
    finer = [stored_bytes(weights[op.weight], FINER[recipe.bits[op.code]]) - sizes[op.code] for op in ops]
    return np.array(finer) / total
