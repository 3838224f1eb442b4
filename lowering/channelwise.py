"""A product and a sum for each channel of a picture are one operation: onnxruntime goes over the picture once.

    x * a + b   ==>   BatchNormalization(x, a, b, 0, 1)        a, b [C], constants
    x * a + b   ==>   the same of x [1, B C, ...]              a, b [B, C, 1, ...], of each sample

So stand scale and shift behind a GroupNorm, adaptive ones and those of the bias and the time behind a convolution. In
2-D the result is bitwise the same on x86; a processor that rounds product and sum once gives others. With channels and
samples as one axis the picture itself stays where it is. On the shipped denoisers a step takes 0.87 to 0.90 of the time
(docs/quantization.md, "cpu-x86"). A bias straight behind DequantizeLinear is such a sum too: onnxruntime would put it
before the way back to channels first, and then turn around floats in the place of codes.

In 1-D, where channels are short, this takes longer.
"""

from dataclasses import dataclass

import numpy as np
from onnx import numpy_helper

from fewstep.graph.additions import Additions
from fewstep.graph.graph import BATCH, Array, Graph, Node
from fewstep.graph.index import Index, index
from fewstep.graph.types import Types

Operand = Array | str  # a constant [C], or the name of an input [B, C, 1, ...]


def channelwise(graph: Graph, types: Types) -> Graph:
    """The lowered graph with such operations. `types` are those of the prepared graph, whose names it kept."""
    idx, new = index(graph), Additions(graph)
    changed: dict[str, tuple[Node, ...]] = {}
    units: dict[int, tuple[str, str]] = {}
    for node in graph.nodes:
        found = _affine(node, graph, idx, types) if node.op == "Add" and not node.domain else None
        if found is None:
            continue
        changed |= dict.fromkeys(found.gone, ())
        is_constant = not isinstance(found.scale, str) and not isinstance(found.shift, str)
        changed[node.output] = _of_channels(found, new) if is_constant else _of_samples(found, graph, idx, units, new)
        changed |= dict.fromkeys(_needless(found, graph, idx) if not is_constant else (), ())
    return graph.with_nodes((made for node in graph.nodes for made in changed.get(node.output, (node,))), new.constants)


@dataclass(frozen=True)
class _Affine:
    """x * scale + shift, of `rank` axes; `gone` is what the product made."""

    x: str
    scale: Operand
    shift: Operand
    add: Node
    channels: int
    rank: int
    gone: tuple[str, ...] = ()


def _affine(add: Node, graph: Graph, idx: Index, types: Types) -> _Affine | None:
    """What a sum and the product ahead of it compute; None if not that."""
    value = types.values.get(add.output)
    if value is None or len(value.shape) < 4 or value.shape[0] != BATCH or value.dtype != np.float32:
        return None
    channels, rank = value.shape[1], len(value.shape)
    if not isinstance(channels, int):
        return None
    for inner, given in (add.inputs, add.inputs[::-1]):
        shift, source = _operand(given, channels, rank, graph), idx.producers.get(inner)
        if shift is None or source is None or source.domain:
            continue
        if source.op == "DequantizeLinear":
            return _Affine(inner, np.ones(channels, np.float32), shift, add, channels, rank)
        found = _scaled(source, channels, rank, graph, types) if idx.is_inner(inner) else None
        if found is not None:
            return _Affine(*found, shift, add, channels, rank, (inner,))
    return None


def _scaled(node: Node, channels: int, rank: int, graph: Graph, types: Types) -> tuple[str, Operand] | None:
    """x and a of a product x * a; None if it is none for each channel, or x has not the shape of the product."""
    if node.op == "BatchNormalization" and node.attributes.get("epsilon") == 0.0:  # of a convolution without a bias
        scale, shift = (graph.constants.get(name) for name in node.inputs[1:3])
        return None if scale is None or shift is None or shift.any() else (node.inputs[0], scale)
    if node.op != "Mul":
        return None
    for x, given in (node.inputs, node.inputs[::-1]):
        numbers, shape = _operand(given, channels, rank, graph), types.shape(x)
        if numbers is not None and shape is not None and shape == types.shape(node.output):
            return (x, numbers) if shape[:2] == (BATCH, channels) else None
    return None


def _operand(name: str, channels: int, rank: int, graph: Graph) -> Operand | None:
    """What has one number for each channel; None if a tensor has not."""
    own = (channels, *[1] * (rank - 2))
    constant = graph.constants.get(name)
    if constant is None:
        return name if any(each.name == name and each.shape == (BATCH, *own) for each in graph.inputs) else None
    fits = constant.size == channels and constant.shape[-len(own) :] == own and constant.dtype == np.float32
    return constant.reshape(-1) if fits else None


def _of_channels(found: _Affine, new: Additions) -> tuple[Node, ...]:
    """The operation with constants [C]."""
    zeros = new.constant(f"zeros({found.channels})", np.zeros(found.channels, np.float32))
    ones = new.constant(f"ones({found.channels})", np.ones(found.channels, np.float32))
    parts = {"scale": found.scale, "shift": found.shift}
    given = [new.constant(f"{part}({found.add.output})", np.asarray(value)) for part, value in parts.items()]
    inputs = (found.x, *given, zeros, ones)
    return (Node("BatchNormalization", inputs, found.add.outputs, {"epsilon": 0.0}, found.add.name),)


def _of_samples(
    found: _Affine, graph: Graph, idx: Index, units: dict[int, tuple[str, str]], new: Additions
) -> tuple[Node, ...]:
    """The operation with numbers [B C]. `units` are the zeros and ones that others made, by channels."""
    made, nodes, rows = found.add.output, list[Node](), list[str]()
    sample = found.scale if isinstance(found.scale, str) else found.shift
    assert isinstance(sample, str)
    flat = new.constant("flat", np.array([-1]))
    for part, operand in (("scale", found.scale), ("shift", found.shift)):
        source = operand
        if not isinstance(source, str):
            picture = new.constant(f"{part}({made})", source.reshape(1, -1, *[1] * (found.rank - 2)))
            size, source = new.name(f"{made}_{part}_size"), new.name(f"{made}_{part}_spread")
            nodes += [Node("Shape", (sample,), (size,)), Node("Expand", (picture, size), (source,))]
        rows.append(new.name(f"{made}_{part}_row"))
        nodes.append(Node("Reshape", (source, flat), (rows[-1],)))
    if found.channels not in units:
        size, zeros, ones = (new.name(f"{part}_of_samples({found.channels})") for part in ("size", "zeros", "ones"))
        one = {"value": numpy_helper.from_array(np.ones(1, np.float32))}
        nodes.append(Node("Shape", (rows[0],), (size,)))
        nodes += [Node("ConstantOfShape", (size,), (zeros,)), Node("ConstantOfShape", (size,), (ones,), one)]
        units[found.channels] = zeros, ones
    source, positions = _ahead(found, graph, idx)
    together = new.constant("together", np.array([1, -1, *positions]))
    apart = new.constant(f"apart({found.channels})", np.array([-1, found.channels, *[0] * (found.rank - 2)]))
    joined, result = new.name(f"{made}_joined"), new.name(f"{made}_rows")
    inputs = (joined, *rows, *units[found.channels])
    return (
        *nodes,
        Node("Reshape", (source, together), (joined,)),
        Node("BatchNormalization", inputs, (result,), {"epsilon": 0.0}, found.add.name),
        Node("Reshape", (result, apart), found.add.outputs),
    )


def _ahead(found: _Affine, graph: Graph, idx: Index) -> tuple[str, list[int]]:
    """What the rows of channels are a view of, and the sizes of its positions: 0 is a size as it is."""
    before = idx.producer(found.x, "Reshape")
    shape = None if before is None else graph.constants.get(before.inputs[1])
    if before is not None and idx.is_inner(found.x) and shape is not None and (shape[1:] > 0).all():
        return before.inputs[0], [int(size) for size in shape[2:]]
    return found.x, [0] * (found.rank - 2)


def _needless(found: _Affine, graph: Graph, idx: Index) -> tuple[str, ...]:
    """The view of x that nothing reads any more."""
    return () if _ahead(found, graph, idx)[0] == found.x else (found.x,)
