"""What a convolution writes multiplied goes back to float at no cost: the division joins what stands there anyway.

    2-D:   DequantizeLinear(y, scale) / n + bias   ==>   BatchNormalization(DequantizeLinear(y, scale), 1 / n, bias)
    1-D:   DequantizeLinear(y, scale) / n          ==>   DequantizeLinear(y, scale / n)

BatchNormalization of mean 0 and variance 1 is a product and a sum for each channel in one operation. In 2-D the result
is bitwise the same on x86; a processor that rounds product and sum once gives others. With it an int8 step takes 0.93
of the time of both on `unet_edm_cifar`, and 0.97 on the shipped `fashion_mnist`. In 1-D its fixed cost shows, 1.06, and
a scale for each channel is better, 0.97. In 2-D that would take 1.08 to 1.13: onnxruntime puts channels last there,
where DequantizeLinear takes them one by one (1.31 on AVX512, processor times).

Scales that change with the range group are rows of one packed table for each number of channels.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np

from fewstep.graph.graph import Array, Graph, Node
from fewstep.graph.index import Index, index
from fewstep.lowering.encoding import Encoding, integer_of, scale_of, zero_point_of
from fewstep.lowering.gathering import ChannelCode, gathered_by_channel
from fewstep.lowering.scheme import Replacement
from fewstep.lowering.weights import representable


@dataclass(frozen=True)
class Division:
    """The nodes from the integers of a tensor to its floats, and the code of the integers."""

    dequantize: Node
    product: Node
    numbers: Array  # [channels], 1 / n
    code: Encoding
    spatial: int  # axes behind the channels


def with_free_divisions(graph: Graph, encodings: Mapping[str, Encoding]) -> Graph:
    """The lowered graph with divisions joined so. `encodings` are those of its integers, by tensor."""
    idx = index(graph)
    found = list(_divisions(graph, idx, encodings))
    scaled = _in_scales([each for each in found if each.spatial == 1], graph)
    made, constants = {node.output: node for node in scaled.nodes}, dict(scaled.constants)
    gone = {each.dequantize.output for each in found if each.spatial == 1}
    for each in found:
        if each.spatial > 1:
            bias = _bias_behind(each, graph, idx)
            joined = _normalization(each, bias)
            gone |= {each.product.output} - {joined.nodes[0].output}
            made |= {node.output: node for node in joined.nodes}
            constants |= joined.constants
    nodes = [made.pop(node.output, node) for node in graph.nodes if node.output not in gone]
    return graph.with_nodes([*made.values(), *nodes], constants)  # scales come first: they follow from the group alone


def _divisions(graph: Graph, idx: Index, encodings: Mapping[str, Encoding]) -> Iterator[Division]:
    codes = {integer_of(name): code for name, code in encodings.items() if code.multipliers is not None}
    for node in graph.nodes:
        if node.op != "Mul" or not graph.is_constant(node.inputs[-1]):
            continue
        source = idx.producer(node.inputs[0], "DequantizeLinear")
        if source is None or source.inputs[0] not in codes or not idx.is_inner(source.output):
            continue
        weight = idx.producers[source.inputs[0]].inputs[3]
        numbers = graph.constants[node.inputs[1]].reshape(-1)
        yield Division(source, node, numbers, codes[source.inputs[0]], graph.constants[weight].ndim - 2)


def _in_scales(found: Sequence[Division], graph: Graph) -> Replacement:
    """Scales for each channel, and the nodes that read them."""
    codes = [_channel_code(each, graph) for each in found]
    rows = gathered_by_channel("scales", codes)
    made = (
        replace(
            each.dequantize,
            inputs=(each.dequantize.inputs[0], code.scale, code.zero_point),
            outputs=each.product.outputs,
            attributes={"axis": 1},
        )
        for each, code in zip(found, codes, strict=True)
    )
    return Replacement((*rows.nodes, *made), rows.constants)


def _channel_code(division: Division, graph: Graph) -> ChannelCode:
    made, zero = division.product.output, graph.constants[division.dequantize.inputs[2]]
    scales = representable(division.code.scales[:, None] * division.numbers, division.numbers.dtype)
    return ChannelCode(scale_of(made), zero_point_of(made), scales, zero)


def _normalization(division: Division, bias: tuple[Node, Array] | None) -> Replacement:
    """The product, and the sum behind it if there is one, as one operation."""
    numbers, channels = division.numbers, len(division.numbers)
    zeros, ones = f"zeros({channels})", f"ones({channels})"
    constants: dict[str, Array] = {zeros: np.zeros_like(numbers), ones: np.ones_like(numbers)}
    scale, shift, made = division.product.inputs[1], zeros, division.product.output
    constants[f"channels({scale})"] = numbers
    if bias is not None:
        made, shift = bias[0].output, f"channels({bias[0].output}_bias)"
        constants[shift] = bias[1]
    inputs = (division.dequantize.output, f"channels({scale})", shift, zeros, ones)
    node = Node("BatchNormalization", inputs, (made,), {"epsilon": 0.0}, division.product.name)
    return Replacement((node,), constants)


def _bias_behind(division: Division, graph: Graph, idx: Index) -> tuple[Node, Array] | None:
    """The sum with one constant for each channel that alone reads the product, and its constant."""
    made, channels = division.product.output, len(division.numbers)
    if not idx.is_inner(made) or idx.consumers[made][0].op != "Add":
        return None
    (add,) = idx.consumers[made]
    others = [name for name in add.inputs if graph.is_constant(name)]
    if not others:
        return None
    value = graph.constants[others[0]]
    shape = (channels, *[1] * division.spatial)
    is_bias = value.size == channels and value.shape[-len(shape) :] == shape and value.dtype == division.numbers.dtype
    return (add, value.reshape(-1)) if is_bias else None
