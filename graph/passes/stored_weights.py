"""Store the weights of a float network in 8 or 4 bits. Engines multiply them with float activations.

    Conv(x, W)       ==>   Conv(x, DequantizeLinear(int8, scale))        8 bits, a scale for each output channel
    MatMul(x, W)     ==>   MatMulNBits(x, 4 bits, scales, zero points)   4 bits, a scale for each group of inputs

onnxruntime computes products of both forms by MatMulNBits, whose CPU kernel rounds activations to 8 bits in each group
of inputs. The error is about 45 dB below the product. Kernels without it take 1.5 to 2 times as long (lab/trials.md).
"""

from collections.abc import Callable
from dataclasses import replace

import numpy as np

from fewstep.graph.files.weights import release_array
from fewstep.graph.graph import Array, Graph, Node
from fewstep.graph.grouped_weights import GroupedWeight, group_size, quantize_in_groups
from fewstep.graph.passes.constants import drop_unused
from fewstep.graph.passes.contrib_attention import hold_few_scores
from fewstep.graph.passes.stored_embeddings import store_embeddings
from fewstep.graph.selection import (
    CONTRIB,
    FEW_CHANNELS,
    OUTER,
    STEERS,
    WeightedOp,
    explain_selection,
)
from fewstep.graph.weight_quantization import QuantizedWeight, quantize_weight
from fewstep.plans.errors import UserError
from fewstep.runtime.bundle.platforms import Bits
from fewstep.runtime.machine.threads import map_threads

StoredWeight = QuantizedWeight | GroupedWeight
IN_8_BITS = 4  # accuracy_level of MatMulNBits at which activations are rounded to 8 bits


def select_stored_ops(graph: Graph) -> tuple[WeightedOp, ...]:
    """Return the operations whose weights can be stored in 8 bits: Conv, Gemm and MatMul with a constant weight. The
    first and last layers, layers of fewer than 16 channels, and those that compute a gradient stay float, as in an int8
    body (`selection.py`)."""
    in_float = (FEW_CHANNELS, STEERS, OUTER)
    return tuple(op for op, reason in explain_selection(graph) if reason not in in_float)


def can_have_4_bits(op: WeightedOp, graph: Graph) -> bool:
    """Return whether engines multiply an operation's weight in 4 bits: that of matrix products that are only x times W
    plus at most a bias. All operations that share a weight have it in the same form."""
    return all(_is_plain_product(node) for node in graph.nodes if op.weight in node.inputs[1:2])


def _is_plain_product(node: Node) -> bool:
    attributes = node.attributes
    is_plain = not attributes.get("transA") and all(attributes.get(factor, 1.0) == 1.0 for factor in ("alpha", "beta"))
    return node.op != "Conv" and is_plain


def store_weights(
    graph: Graph, weight_of: Callable[[WeightedOp], StoredWeight | None], form: Graph | None = None
) -> Graph:
    """Return the graph with weights in 8 or 4 bits. `weight_of` returns that of an operation, or None if it stays
    float. It is called once for each weight, in threads, and the weight is packed before the thread takes the next one.
    Operations with a weight in 4 bits must be those of `can_have_4_bits`.

    form: the graph in another form with the same operations with weights, such as that of `hold_few_scores`, which is
        returned with its weights stored; None for the graph itself.
    """
    form = graph if form is None else form

    def pack(op: WeightedOp) -> tuple[int, dict[str, Array]] | None:
        """Return the number of a group's inputs, or 0 for 8 bits, and the constants of a weight."""
        weight = weight_of(op)
        if isinstance(weight, GroupedWeight):
            return weight.group, _pack_weight(op, weight)
        return None if weight is None else (0, {_integers(op): weight.values, _int8_scales(op): weight.scales})

    ops = select_stored_ops(graph)
    owners = {op.code: op for op in reversed(ops)}
    packed = dict(zip(owners, map_threads(pack, owners.values()), strict=True))
    changed: dict[str, tuple[Node, ...]] = {}  # by the output of the node to replace
    nodes: dict[str, Node] = {}
    constants: dict[str, Array] = {}
    for op in ops:
        if (parts := packed[op.code]) is None:
            continue
        group, stored = parts
        constants |= stored
        if group:
            nodes.setdefault(_scales(op), Node("Cast", (f"{_scales(op)}16",), (_scales(op),), {"to": 1}))
            changed[op.name] = _product_nodes(op, graph.constants[op.weight].shape, group)
        else:
            name = f"{op.weight}/dequantized_{op.axis}"
            nodes[name] = Node("DequantizeLinear", (_integers(op), _int8_scales(op)), (name,), {"axis": op.axis})
            changed[op.name] = (replace(op.node, inputs=(op.x, name, *op.node.inputs[2:])),)
    replaced = [new for node in form.nodes for new in changed.get(node.output, (node,))]
    return drop_unused(form.with_nodes([*nodes.values(), *replaced], constants))


def store_nearest(graph: Graph, bits: Bits) -> Graph:
    """Return the graph with all weights of `select_stored_ops` in 8 bits, or those of matrix products in 4 bits, tables
    of embeddings in 8 bits, and attention that holds few scores. Each number is the nearest one that its scale allows.
    Weights that are mapped from a file are released from memory.

    Raises UserError if a weight is not finite.
    """

    def nearest(op: WeightedOp) -> StoredWeight:
        is_small = bits == 4 and can_have_4_bits(op, graph)
        weight = nearest_int4(op, graph) if is_small else nearest_int8(op, graph)
        release_array(graph.constants[op.weight])
        return weight

    return store_embeddings(store_weights(graph, nearest, hold_few_scores(graph)))


def store_weights_as_int8(graph: Graph) -> Graph:
    """Store all weights of `select_stored_ops` in 8 bits, each number as the nearest integer.

    Raises UserError if there is no such weight, or one is not finite.
    """
    ops = select_stored_ops(graph)
    if not ops:
        raise UserError(
            f"no weight of graph {graph.name!r} can be stored as int8", "give another body, such as float32"
        )
    return store_weights(graph, lambda op: nearest_int8(op, graph))


def nearest_int8(op: WeightedOp, graph: Graph) -> QuantizedWeight:
    """Return the weight of an operation in 8 bits, each number as the nearest integer. Raises UserError if it is not
    finite."""
    try:
        return quantize_weight(graph.constants[op.weight], op.axis)
    except ValueError as error:
        raise not_finite(op, error) from None


def nearest_int4(op: WeightedOp, graph: Graph) -> GroupedWeight:
    """Return the weight of a matrix product in 4 bits, each number as the nearest code. Raises UserError if it is not
    finite."""
    try:
        return quantize_in_groups(np.moveaxis(graph.constants[op.weight], op.axis, 0), group_size(op.channels_in))
    except ValueError as error:
        raise not_finite(op, error) from None


def not_finite(op: WeightedOp, error: ValueError) -> UserError:
    """Return the error for a weight that is not finite."""
    return UserError(f"weight {op.weight!r} has {error}", "export a checkpoint whose weights are finite")


def stored_bytes(weight: Array, bits: int) -> float:
    """Return about how many bytes a float32 weight takes in a number of bits: 4, 8, or 32 for float."""
    return weight.size * bits / 8


def _scales(op: WeightedOp) -> str:
    return f"{op.code}/scales"


def _integers(op: WeightedOp) -> str:
    return f"{op.weight}/int8_{op.axis}"


def _int8_scales(op: WeightedOp) -> str:
    return f"{op.weight}/scales_{op.axis}"


def _pack_weight(op: WeightedOp, weight: GroupedWeight) -> dict[str, Array]:
    """Return the constants of MatMulNBits for a weight: two codes in each byte, the first one in the low half."""
    outputs, groups = weight.scales.shape
    codes = np.zeros((outputs, groups * weight.group), np.uint8)
    codes[:, : weight.codes.shape[1]] = weight.codes
    zeros = np.pad(weight.zeros, ((0, 0), (0, groups % 2)))
    return {
        f"{op.code}/int4": _pack(codes).reshape(outputs, groups, -1),
        f"{_scales(op)}16": weight.scales.reshape(-1),
        f"{op.code}/zeros": _pack(zeros).reshape(-1),
    }


def _pack(codes: Array) -> Array:
    packed: Array = codes[:, 0::2] | codes[:, 1::2] << 4
    return packed


def _product_nodes(op: WeightedOp, shape: tuple[int, ...], group: int) -> tuple[Node, ...]:
    """Return the nodes that replace a product with a weight of this shape: MatMulNBits, and the sum with the bias of a
    Gemm."""
    outputs, inputs = shape[op.axis], shape[1 - op.axis]
    attributes = {"K": inputs, "N": outputs, "bits": 4, "block_size": group, "accuracy_level": IN_8_BITS}
    product = op.name if not op.bias else f"{op.name}/product"
    given = op.x, f"{op.code}/int4", _scales(op), f"{op.code}/zeros"
    node = Node("MatMulNBits", given, (product,), attributes, op.node.name, CONTRIB)
    return (node, *(Node("Add", (product, bias), (op.name,)) for bias in op.bias))
