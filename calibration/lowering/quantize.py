"""Lowering of the prepared graph to an int8 graph for one target, by its ranges."""

import logging
from collections import Counter
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial, reduce
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from fewstep.calibration.lowering.channel_equalization import (
    encode_tensor,
    equalize_channels,
    equalize_scales,
    equalize_weight,
)
from fewstep.calibration.lowering.encoding import (
    Encoding,
    asymmetric_uint8,
    eight_bit_name,
    scale_name,
    symmetric_int8,
    zero_point_name,
)
from fewstep.calibration.lowering.gptq import correct_rounding
from fewstep.calibration.lowering.group_scales import GROUP_INPUT, gather_columns
from fewstep.calibration.lowering.scheme import Replacement, Scheme, Target
from fewstep.calibration.ranges.moments import Moments
from fewstep.calibration.ranges.observe import tensors_to_observe
from fewstep.calibration.ranges.table import RangesTable
from fewstep.graph.files.weights import release_array
from fewstep.graph.graph import Array, Graph, X
from fewstep.graph.half_types import largest_number
from fewstep.graph.passes.constants import drop_unused
from fewstep.graph.selection import LEAST_CHANNELS, STEERS, WeightedOp, explain_selection, select_int8_ops
from fewstep.graph.types import infer_types
from fewstep.graph.weight_quantization import QuantizedWeight, clip_scales, quantize_weight
from fewstep.plans.errors import UserError
from fewstep.runtime.bundle.manifest import Coverage
from fewstep.runtime.machine.threads import map_threads

LOG = logging.getLogger("fewstep")

# takes an operation, its weight, and the multipliers of its input channels, if any
Quantizer = Callable[[WeightedOp, NDArray[np.float32], NDArray[np.float64] | None], QuantizedWeight]
LARGEST_CONSTANT = 1e9  # magnitude from which a constant cannot share a 16-bit code with other numbers


class LoweredGraph(NamedTuple):
    """An int8 graph, not checked on an engine, with its int8 operations and the codes of activations by tensor."""

    graph: Graph
    ops: tuple[WeightedOp, ...]
    codes: dict[str, Encoding]


@dataclass(frozen=True)
class LoweredBody:
    """An int8 graph to be deployed. `coverage` counts the operations that really run in int8. `groups` are the edges of
    lambda between its range groups; empty if its scales are constant."""

    graph: Graph
    coverage: Coverage
    groups: tuple[float, ...]
    notes: tuple[str, ...]


def lower(
    prepared: Graph,
    table: RangesTable,
    target: Target,
    in_float: Collection[str] = (),
    keep: Callable[[Graph], Graph] | None = None,
    quantize: Quantizer | None = None,
) -> LoweredBody:
    """Lower a prepared float32 graph to the int8 body for a target. Operations named in `in_float` stay in float.

    `keep` moves the weights of the int8 graph to files, and returns the graph with the weights mapped from there. It is
    called before the check on an engine, which holds another copy of the weights. By default they stay in memory.
    `quantize` rounds weights, by default to the nearest integers. Raises UserError if a tensor has no range, or if no
    operation can be quantized.
    """
    graph, ops, codes = lower_graph(prepared, table, target, in_float, quantize)
    graph = graph if keep is None else keep(graph)
    groups = table.groups if GROUP_INPUT in graph.inputs else ()
    return LoweredBody(graph, target.check(prepared, graph, ops), groups, target.platform.notes + _notes(codes))


def lower_graph(
    prepared: Graph,
    table: RangesTable,
    target: Target,
    in_float: Collection[str] = (),
    quantize: Quantizer | None = None,
) -> LoweredGraph:
    """Return the int8 graph for a target without checking it on an engine, as `lower` does.

    in_float: the names of operations to keep in float.
    quantize: rounds the weight of an operation; by default the quantizer of the target.
    """
    ops = tuple(op for op in select_measured_ops(prepared, table, target.scheme) if op.name not in in_float)
    if not ops:
        raise UserError(f"every operation of graph {prepared.name!r} stays in float", "keep fewer in float")
    scheme = target.scheme
    encodings = choose_encodings(prepared, table, ops, scheme)
    quantizer = quantize or make_quantizer(target)

    def quantize_operation(op: WeightedOp) -> QuantizedWeight:
        weight = quantizer(op, equalize_weight(op, prepared, encodings), encodings[op.x].multipliers)
        release_array(prepared.constants[op.weight])
        return equalize_scales(weight, op, encodings, scheme)

    weights = map_threads(quantize_operation, ops)
    formed = reduce(lambda graph, rewrite: rewrite(graph), target.rewrites, prepared)
    base, inner, codes = equalize_channels(formed, ops, encodings, scheme)
    for arithmetic in scheme.arithmetic:  # emulates the parts of codes that engines do not support
        base, inner, codes = arithmetic(base, inner, codes, _weights_by_name(inner, weights), scheme.scale_dtype)
    base = _remove_weights(base, inner)  # so that passes need not convert them
    base = reduce(lambda graph, rewrite: rewrite(graph), target.passes, base)
    lowered = emit_graph(base, inner, codes, _weights_by_name(inner, weights), scheme)
    if target.finish:
        types = infer_types(prepared)
        codes = codes | (narrow_codes(prepared, table, ops) if scheme.narrow else {})
        lowered = reduce(lambda graph, rewrite: drop_unused(rewrite(graph, types, codes)), target.finish, lowered)
    return LoweredGraph(lowered, ops, encodings)


def make_quantizer(target: Target, moments: Moments | None = None) -> Quantizer:
    """Return the function that rounds weights for a target: by the second moments of their inputs (`gptq.py`) if
    `moments` are given, otherwise to the nearest integers."""
    return partial(_quantize_weight, target.scheme, moments or {})


def cache_quantizer(quantize: Quantizer) -> Quantizer:
    """Return the quantizer with a cache, so that each weight is rounded once. This is possible since the result does
    not depend on other operations."""
    weights: dict[str, QuantizedWeight] = {}

    def quantize_once(
        op: WeightedOp, weight: NDArray[np.float32], multipliers: NDArray[np.float64] | None
    ) -> QuantizedWeight:
        if op.code not in weights:
            weights[op.code] = quantize(op, weight, multipliers)
        return weights[op.code]

    return quantize_once


def select_ops_to_lower(prepared: Graph, no_floats: bool = False) -> tuple[WeightedOp, ...]:
    """Return the operations that an int8 graph replaces: all that can be replaced if `no_floats`, otherwise those that
    the selection rules choose. Raises UserError if there are none, so it should be called before anything is
    measured."""
    if no_floats and prepared.optional:  # inputs whose values were not measured
        what = "slots for LoRA files have no ranges, but this target quantizes every tensor"
        raise UserError(what, "export without --lora-slots, and merge files: --lora FILE")
    if no_floats:
        _check_constants(prepared)
    explained = explain_selection(prepared)
    every = tuple(op for op, _ in explained if not op.node.attributes.get("transA"))
    ops = every if no_floats else select_int8_ops(prepared)
    if not ops:
        counts = Counter(reason.partition(":")[0] for _, reason in explained)
        why = "; ".join(f"{count}: {reason}" for reason, count in counts.items())
        raise UserError(
            f"no operation of graph {prepared.name!r} can run in int8 ({why or 'it has none'})",
            "use float: int8 needs Conv, MatMul or Gemm layers between the first and the last one, with"
            f" {LEAST_CHANNELS} channels or more",
        )
    return ops


def _check_constants(prepared: Graph) -> None:
    """Raise UserError for a constant that is so large that one 16-bit scale cannot cover it and smaller numbers, such
    as an infinite attention mask."""
    for name, array in prepared.constants.items():
        if array.dtype.kind == "f" and array.size and np.abs(array).max() >= LARGEST_CONSTANT:
            raise UserError(
                f"constant {name!r} has {np.abs(array).max():g}, too large for 16 bits together with smaller numbers",
                "mask with -1e4, or leave this target out",
            )


def select_measured_ops(prepared: Graph, table: RangesTable, scheme: Scheme) -> tuple[WeightedOp, ...]:
    """Return the operations that can be in int8 and whose activations were observed at some step of the calibration.
    Raises UserError if there are none."""
    unseen = frozenset(table.unseen)
    ops = tuple(
        op
        for op in select_ops_to_lower(prepared, scheme.no_floats)
        if unseen.isdisjoint(tensors_to_encode((op,), scheme))
    )
    if not ops:
        raise UserError(
            f"calibration observed no values of the activations that int8 would quantize in graph {prepared.name!r}",
            "calibrate with more trajectories, or use float",
        )
    return ops


def _remove_weights(base: Graph, ops: Sequence[WeightedOp]) -> Graph:
    """Return the graph without the weights that only `ops` read: `emit_graph` replaces them by integers."""
    lowered = {op.name: op.weight for op in ops}
    others = {name for node in base.nodes for name in node.inputs if name != lowered.get(node.output)}
    gone = set(lowered.values()) - others
    return replace(base, constants={name: array for name, array in base.constants.items() if name not in gone})


def _weights_by_name(ops: Sequence[WeightedOp], weights: Sequence[QuantizedWeight]) -> dict[str, QuantizedWeight]:
    return {op.name: weight for op, weight in zip(ops, weights, strict=True)}


def choose_encodings(
    prepared: Graph, table: RangesTable, ops: tuple[WeightedOp, ...], scheme: Scheme
) -> dict[str, Encoding]:
    """Return the quantization parameters of every activation. They do not depend on which other operations are
    quantized. Activations of operations that share a weight have a single scale for all channels: the weight would have
    to compensate for the multipliers of all of these operations."""
    weighted = [op for op, reason in explain_selection(prepared) if reason != STEERS]  # those read the float weight
    readers = Counter(op.weight for op in weighted)
    sharing = {name for op in weighted if readers[op.weight] > 1 for name in (op.x, op.name)}
    names = tensors_to_observe(prepared, True) if scheme.no_floats else tensors_to_encode(ops, scheme)
    one_scale = {name: replace(table[name], by_channel=None) for name in sharing.intersection(names)}
    ranges = {name: table[name] for name in names} | one_scale
    least, placed = _least_gains(prepared, scheme), scheme.place_roundings(prepared, ops)

    def code_of(name: str) -> Encoding:
        is_grouped = bool(table.groups) and name not in placed.pooled
        if name in placed.bare:
            return symmetric_int8(ranges[name], is_grouped)
        return encode_tensor(ranges[name], is_grouped, scheme, least(name))

    return {name: code_of(name) for name in names}


def narrow_codes(prepared: Graph, table: RangesTable, ops: Sequence[WeightedOp]) -> dict[str, Encoding]:
    """Return the 8-bit codes of the inputs of operations in a narrow scheme. The keys are `eight_bit_name` of the
    operation's name. Operations that the selection rules do not choose read 16 bits."""
    narrow = {op.name for op in select_int8_ops(prepared)}
    inner = (op for op in ops if op.name in narrow)
    return {eight_bit_name(op.name): asymmetric_uint8(table[eight_bit_name(op.x)], grouped=False) for op in inner}


def _least_gains(prepared: Graph, scheme: Scheme) -> Callable[[str], float]:
    """Return a function that maps a tensor to the least gain, in dB, at which it gets per-channel scales. For the
    largest tensor this is `Scheme.least_gain`. If that is positive, a smaller tensor needs less gain in proportion to
    its size, because multiplying it takes less time. For quantized outputs the least gain is 0, since they are not
    multiplied."""
    if scheme.least_gain <= 0:
        return lambda name: scheme.least_gain
    selected = select_int8_ops(prepared)
    # Quantized outputs: the scales of the weights take their multipliers
    written = {op.name for op in selected if scheme.form.encodes_output(op)}
    types = infer_types(prepared)
    sizes = {name: types.sample_bytes(name) or 0 for name in tensors_to_encode(selected, scheme)}
    largest = max(sizes.values(), default=0) or 1
    return lambda name: 0.0 if name in written else scheme.least_gain * (sizes.get(name) or largest) / largest


def tensors_to_encode(ops: tuple[WeightedOp, ...], scheme: Scheme) -> tuple[str, ...]:
    """Return the names of the tensors whose ranges a lowering needs."""
    outputs = (op.name for op in ops if scheme.form.encodes_output(op))
    return tuple(dict.fromkeys((*(op.x for op in ops), *outputs)))


def emit_graph(
    base: Graph,
    ops: tuple[WeightedOp, ...],
    encodings: Mapping[str, Encoding],
    weights: Mapping[str, QuantizedWeight],
    scheme: Scheme,
) -> Graph:
    """Return `base` with each operation of `ops` replaced by its int8 nodes. If an activation has several scales, one
    for each range group of the steps, the graph gets the additional input "group", which selects one."""
    selected = {op.name: op for op in ops}
    groups = max(len(encoding.scales) for encoding in encodings.values())
    form = scheme.form
    sources = scales_and_zero_points(encodings, scheme.scale_dtype)
    nodes, constants = list(sources.nodes), dict(sources.constants)
    outputs: set[str] = set()  # an activation or a weight that several operations read is quantized once
    for node in base.nodes:
        op = selected.get(node.output)
        if op is None:
            nodes.append(node)
            continue
        renamed = replace(node, inputs=(op.x, op.weight, *node.inputs[2:]))  # passes may have renamed constants
        emitted = form.operation(replace(op, node=renamed), weights[op.name])
        fresh = [new for new in (*form.quantize(op.x), *emitted.nodes) if new.output not in outputs]
        nodes.extend(fresh)
        outputs.update(new.output for new in fresh)
        constants.update(emitted.constants)
    group = (GROUP_INPUT,) if groups > 1 else ()
    return drop_unused(replace(base.with_nodes(nodes, constants), inputs=base.inputs + group))


def scales_and_zero_points(encodings: Mapping[str, Encoding], dtype: np.dtype[Any]) -> Replacement:
    """Return the nodes and constants of all scales and zero points. Scales that differ between range groups are the
    columns of one packed table [groups, tensors], from which the input "group" selects a row; all others are
    constants."""
    constants: dict[str, Array] = {
        zero_point_name(name): np.asarray(code.zero_point) for name, code in encodings.items()
    }
    scales = {scale_name(name): clip_scales(code.scales, dtype) for name, code in encodings.items()}
    constants |= {name: scale[0] for name, scale in scales.items() if len(scale) == 1}
    of_groups = {name: scale for name, scale in scales.items() if len(scale) > 1}
    if not of_groups:
        return Replacement((), constants)
    rows = gather_columns("scales()", np.stack(list(of_groups.values()), axis=1), tuple(of_groups))
    return Replacement(rows.nodes, constants | rows.constants)


def widen_target(target: Target, reached: Mapping[str, float]) -> Target:
    """Return the target, or its wider one if an activation exceeds its float type; a warning names the activation. If
    the sample itself exceeds the type, the target is returned, since no type helps. `reached`: see `refuse_overflow`.
    """
    most = max(reached, key=lambda name: reached[name], default="")
    dtype = target.scheme.scale_dtype
    if target.wider is None or most in ("", X) or reached[most] <= largest_number(dtype):
        return target
    wider = target.wider.scheme.scale_dtype.name
    LOG.warning(
        "%s uses %s for operations that are not int8: activation %r reaches %g, which %s cannot represent",
        target.name,
        wider,
        most,
        reached[most],
        dtype,
    )
    return target.wider


def refuse_overflow(reached: Mapping[str, float], target: Target) -> None:
    """Raise UserError naming an activation that the graph's float type cannot hold: it would be infinite in an engine.

    `reached` is the counted maximum magnitude of each (`Counts.max_magnitudes`), which ranges may clip.
    """
    dtype = target.scheme.scale_dtype
    for name, magnitude in reached.items():
        if magnitude > largest_number(dtype):
            fix = f"calibrate without target {target.name}, or export a denoiser with smaller activations"
            if name == X:
                fix = "it is the sample, which leaves the range of the data: give --clip, 1 for data in [-1, 1]"
            raise UserError(f"activation {name!r} reaches {magnitude:g}, beyond {dtype}", fix)


def _quantize_weight(
    scheme: Scheme,
    moments: Moments,
    op: WeightedOp,
    weight: NDArray[np.float32],
    multipliers: NDArray[np.float64] | None,
) -> QuantizedWeight:
    """Return the integers of a weight. Raises UserError if it is not finite."""
    try:
        is_alike = op.node.op in scheme.one_scale
        nearest = quantize_weight(weight, op.axis, scheme.scale_dtype, scheme.in_pairs, is_alike)
    except ValueError as error:
        raise UserError(f"weight {op.weight!r} has {error}", "export a checkpoint whose weights are finite") from None
    sums = moments.get(op.code)
    return nearest if sums is None else correct_rounding(nearest, weight, op, sums, multipliers, scheme.in_pairs)


def _notes(encodings: Mapping[str, Encoding]) -> tuple[str, ...]:
    count = sum(code.multipliers is not None for code in encodings.values())
    return (f"{count} of {len(encodings)} activations have a scale for each channel",) if count else ()
