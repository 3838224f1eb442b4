"""What the graph multiplies only to write it in 8 bits is divided by a scale for each channel, with no product ahead.

    QuantizeLinear(x * m, scale)   ==>   QuantizeLinear(x, scale / m)         m, scale / m: one number for each channel

The integers are those of x * m, so convolutions read them with the one scale that they know. Pictures only: there
onnxruntime has channels ahead of positions where it quantizes, and takes the positions of a channel at once. With
channels last it takes numbers one by one.

Scales that change with the range group are rows of one packed table for each number of channels.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace

from fewstep.graph.graph import Graph, Node
from fewstep.graph.index import Index, index
from fewstep.lowering.encoding import Encoding, integer_of
from fewstep.lowering.gathering import ChannelCode, gathered_by_channel
from fewstep.lowering.weights import representable


@dataclass(frozen=True)
class Multiplied:
    """A product, what writes it, and the code of x for each channel."""

    product: Node
    quantize: Node
    code: ChannelCode


def with_free_products(graph: Graph, encodings: Mapping[str, Encoding]) -> Graph:
    """The lowered graph without such products. `encodings` are those of its integers, by tensor."""
    found = list(_multiplied(graph, index(graph), encodings))
    rows = gathered_by_channel("channels", [each.code for each in found])
    made: dict[str, Node] = {}
    for each in found:
        inputs = (each.product.inputs[0], each.code.scale, each.code.zero_point)
        made[each.quantize.output] = replace(each.quantize, inputs=inputs, attributes={"axis": 1})
    gone = {each.product.output for each in found}
    nodes = [made.get(node.output, node) for node in graph.nodes if node.output not in gone]
    return graph.with_nodes([*rows.nodes, *nodes], rows.constants)


def _multiplied(graph: Graph, idx: Index, encodings: Mapping[str, Encoding]) -> Iterator[Multiplied]:
    codes = {integer_of(name): code for name, code in encodings.items() if code.multipliers is not None}
    for node in graph.nodes:
        if node.op != "QuantizeLinear" or node.output not in codes:
            continue
        product = idx.producer(node.inputs[0], "Mul")
        if product is None or not idx.is_inner(product.output) or not graph.is_constant(product.inputs[1]):
            continue
        readers = idx.consumers.get(node.output, ())
        if not all(each.op == "QLinearConv" and graph.constants[each.inputs[3]].ndim > 3 for each in readers):
            continue
        _, scale, zero = node.inputs
        numbers = graph.constants[product.inputs[1]].reshape(-1)
        scales = representable(codes[node.output].scales[:, None] / numbers, numbers.dtype)
        own = ChannelCode(f"channels({scale})", f"channels({zero})", scales, graph.constants[zero])
        yield Multiplied(product, node, own)
