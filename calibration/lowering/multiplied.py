"""What the graph multiplies only to write it in 8 bits is divided by a scale for each channel, with no product ahead.

    QuantizeLinear(x * m, scale)   ==>   QuantizeLinear(x, scale / m)         m, scale / m: one number for each channel

The integers are those of x * m, so convolutions read them with the one scale that they know. Pictures only: there
onnxruntime has channels ahead of positions where it quantizes, and takes the positions of a channel at once. With
channels last it takes numbers one by one.

Scales that change with the range group are rows of one packed table for each number of channels.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace

import numpy as np

from fewstep.calibration.lowering.encoding import Encoding, integer_of
from fewstep.calibration.lowering.gathering import gathered
from fewstep.graph.graph import Array, Graph, Node
from fewstep.graph.index import Index, index


@dataclass(frozen=True)
class Multiplied:
    """A product and what writes it. `scales` [groups, channels] are those of x."""

    product: Node
    quantize: Node
    scales: Array

    @property
    def channels(self) -> int:
        return int(self.scales.shape[1])


def with_free_products(graph: Graph, encodings: Mapping[str, Encoding]) -> Graph:
    """The lowered graph without such products. `encodings` are those of its integers, by tensor."""
    found = list(_multiplied(graph, index(graph), encodings))
    head: list[Node] = []
    constants: dict[str, Array] = {}
    made: dict[str, Node] = {}
    for channels in sorted({each.channels for each in found}):
        alike = [each for each in found if each.channels == channels]
        names = [f"channels({each.quantize.inputs[1]})" for each in alike]
        if len(alike[0].scales) == 1:
            constants |= {name: each.scales[0] for name, each in zip(names, alike, strict=True)}
        else:
            rows = gathered(f"channels({channels})", np.concatenate([each.scales for each in alike], axis=1), names)
            head += rows.nodes
            constants |= rows.constants
        for name, each in zip(names, alike, strict=True):
            zero = f"channels({each.quantize.inputs[2]})"
            constants[zero] = np.full(channels, graph.constants[each.quantize.inputs[2]])
            inputs = (each.product.inputs[0], name, zero)
            made[each.quantize.output] = replace(each.quantize, inputs=inputs, attributes={"axis": 1})
    gone = {each.product.output for each in found}
    nodes = [made.get(node.output, node) for node in graph.nodes if node.output not in gone]
    return graph.with_nodes([*head, *nodes], constants)


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
        code, numbers = codes[node.output], graph.constants[product.inputs[1]].reshape(-1)
        yield Multiplied(product, node, _scales(code, numbers))


def _scales(code: Encoding, numbers: Array) -> Array:
    """[groups, channels]"""
    limits = np.finfo(numbers.dtype)  # neither a scale of zero nor an infinite one
    return (code.scales[:, None] / numbers).clip(limits.tiny, limits.max).astype(numbers.dtype)
