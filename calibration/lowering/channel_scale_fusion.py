"""Fusion of per-channel scales and shifts with adjacent nodes of a lowered graph, so that they take less time or none.

    pictures:   QuantizeLinear(x * m, scale)           ==>   QuantizeLinear(x, scale / m)
    1-D:        DequantizeLinear(y, scale) / n         ==>   DequantizeLinear(y, scale / n)
    pictures:   DequantizeLinear(y, scale) / n [+ b]   ==>   BatchNormalization(..., 1 / n, b, 0, 1)
    pictures:   x * a + b, constants [C]               ==>   BatchNormalization(x, a, b, 0, 1)
    pictures:   x * a + b of each sample, [B, C, 1..]  ==>   the same of x [1, B C, ...]

An image has two or three spatial axes. m and n are the multipliers of channels (`channel_equalization.py`):
convolutions read and write integers with one scale for all channels. Adaptive scales and shifts follow a GroupNorm;
shifts by the bias and the time follow a convolution. In 2-D, results are bitwise identical on x86; on a processor whose
kernels use fused multiply-add they differ. The view [1, B C, ...] does not copy the image.

Measured in onnxruntime 1.31 on AVX512: BatchNormalization of mean 0 and variance 1 passes over an image once. With
divisions fused an int8 step takes 0.93 of the time on `unet_edm_cifar`, and 0.97 on the shipped `fashion_mnist`. With
sums fused it takes 0.87 to 0.90 on the shipped denoisers (benchmarks/races/cpu_forms.py of commit f965803).

The best form of a division depends on the axes. In 1-D channels are short: a step takes 1.06 of the time with
BatchNormalization, because of its fixed cost, and 0.97 with per-channel scales. In 2-D per-channel scales take 1.08 to
1.13, because onnxruntime uses the channels-last layout there, in which DequantizeLinear processes channels one at a
time. QuantizeLinear reads channels first in both. A bias directly after DequantizeLinear becomes BatchNormalization
too. Otherwise onnxruntime would move the Add before the Transpose to channels first, which would then move floats
instead of codes.

Scales that change with the range group are rows of one packed table for each number of channels.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace

import numpy as np
from onnx import numpy_helper

from fewstep.calibration.lowering.encoding import Encoding, integer_name, scale_name, zero_point_name
from fewstep.calibration.lowering.group_scales import ChannelCode, gather_channel_scales
from fewstep.graph.additions import NewNodes
from fewstep.graph.graph import BATCH, Array, Graph, Node
from fewstep.graph.index import Index, index
from fewstep.graph.pattern import match
from fewstep.graph.types import Types
from fewstep.graph.weight_quantization import clip_scales

Operand = Array | str  # a constant [C], or the name of an input [B, C, 1, ...]
Changes = dict[str, tuple[Node, ...]]  # by tensor: the nodes that replace its node


def fuse_channel_scales(graph: Graph, types: Types, encodings: Mapping[str, Encoding]) -> Graph:
    """Return the int8 graph after the fusions that this module describes. Nodes that are no longer read stay in the
    graph.

    types: the dtypes and shapes of the prepared graph, whose tensor names the int8 graph keeps. encodings: the
        quantization parameters of quantized tensors, by name.
    """
    codes = {
        integer_name(name): code for name, code in encodings.items() if code.multipliers is not None
    }  # keys: names of the integers
    lowered = _Lowered(graph, index(graph), types, NewNodes(graph))
    divisions = list(_find_divisions(lowered, codes))
    dequantized = [_fuse_dequantize(division, graph) for division in divisions if division.axes == 1]
    quantized = list(_fuse_quantize(lowered, codes))
    scales = gather_channel_scales("scales", [tensor.code for tensor in dequantized])
    channels = gather_channel_scales("channels", [tensor.code for tensor in quantized])
    changes: Changes = {coded.node.output: (coded.node,) for coded in (*dequantized, *quantized)}
    for division in divisions:
        if division.axes > 1:
            changes |= _fuse_bias(division, lowered)
    constants = {**scales.constants, **lowered.new.constants, **channels.constants}  # in the file's order, then sums
    changes |= _fuse_sums(lowered, changes)
    nodes = (new for node in graph.nodes for new in changes.get(node.output, (node,)))
    return graph.with_nodes((*channels.nodes, *scales.nodes, *nodes), constants | lowered.new.constants)


@dataclass(frozen=True)
class _Lowered:
    """The lowered graph, the types of the prepared one, and the additions of the pass."""

    graph: Graph
    idx: Index
    types: Types
    new: NewNodes


@dataclass(frozen=True)
class _Division:
    """The nodes that convert a convolution's integers to floats (DequantizeLinear, and the product by 1 / n), and the
    code of the integers."""

    dequantize: Node
    product: Node
    numbers: Array  # [channels], 1 / n
    code: Encoding
    axes: int  # number of spatial axes


@dataclass(frozen=True)
class _Coded:
    """A QuantizeLinear or DequantizeLinear with per-channel scales. It replaces one that has a single scale, and the
    multiplication next to it."""

    node: Node
    code: ChannelCode


def _find_divisions(lowered: _Lowered, codes: Mapping[str, Encoding]) -> Iterator[_Division]:
    """Yield all products by 1 / n after convolutions with quantized outputs."""
    graph, idx = lowered.graph, lowered.idx
    for node in graph.nodes:
        found = match(node, "Mul(*DequantizeLinear(integers), NUMBERS)", idx)
        if found is None or found["integers"] not in codes:
            continue
        weight = idx.producers[found["integers"]].inputs[3]  # the weight of QLinearConv
        numbers = graph.constants[found["NUMBERS"]].reshape(-1)
        yield _Division(found.nodes[1], node, numbers, codes[found["integers"]], graph.constants[weight].ndim - 2)


def _fuse_dequantize(division: _Division, graph: Graph) -> _Coded:
    """Fuse the division into the scales of DequantizeLinear."""
    result, zero = division.product.output, graph.constants[division.dequantize.inputs[2]]
    scales = clip_scales(division.code.scales[:, None] * division.numbers, division.numbers.dtype)
    code = ChannelCode(scale_name(result), zero_point_name(result), scales, zero)
    inputs = (division.dequantize.inputs[0], code.scale, code.zero_point)
    node = replace(division.dequantize, inputs=inputs, outputs=division.product.outputs, attributes={"axis": 1})
    return _Coded(node, code)


def _fuse_quantize(lowered: _Lowered, codes: Mapping[str, Encoding]) -> Iterator[_Coded]:
    """Yield each QuantizeLinear that follows a Mul by constants, with its scales divided by these constants instead.
    Only codes that 2-D or 3-D convolutions read can have a scale for each channel, so others are left as they are."""
    graph, idx = lowered.graph, lowered.idx
    for node in graph.nodes:
        found = match(node, "QuantizeLinear(*Mul(x, NUMBERS))", idx) if node.output in codes else None
        if found is None:
            continue
        readers = idx.consumers.get(node.output, ())
        if not all(reader.op == "QLinearConv" and graph.constants[reader.inputs[3]].ndim > 3 for reader in readers):
            continue
        _, scale, zero = node.inputs
        numbers = graph.constants[found["NUMBERS"]].reshape(-1)
        scales = clip_scales(codes[node.output].scales[:, None] / numbers, numbers.dtype)
        code = ChannelCode(f"channels({scale})", f"channels({zero})", scales, graph.constants[zero])
        inputs = (found["x"], code.scale, code.zero_point)
        yield _Coded(replace(node, inputs=inputs, attributes={"axis": 1}), code)


def _fuse_bias(division: _Division, lowered: _Lowered) -> Changes:
    """Fuse a division of each channel, and a constant bias if one follows, into one operation. Return the nodes to
    replace. Return none if another Add follows, because `_fuse_sums` then fuses the division with it."""
    product, channels = division.product, len(division.numbers)
    readers = lowered.idx.consumers.get(product.output, ()) if lowered.idx.is_inner(product.output) else ()
    add = next((reader for reader in readers if reader.op == "Add"), None)
    bias = None if add is None else _constant_bias(add, division, lowered.graph)
    if add is not None and bias is None and _match_affine(add, lowered) is not None:
        return {}
    new = lowered.new
    zeros = new.constant(f"zeros({channels})", np.zeros_like(division.numbers))
    ones = new.constant(f"ones({channels})", np.ones_like(division.numbers))
    scale = new.constant(f"channels({product.inputs[1]})", division.numbers)
    shift, outputs = zeros, product.outputs
    if add is not None and bias is not None:
        shift, outputs = new.constant(f"channels({add.output}_bias)", bias), add.outputs
    inputs = (division.dequantize.output, scale, shift, zeros, ones)
    node = Node("BatchNormalization", inputs, outputs, {"epsilon": 0.0}, product.name)
    return {node.output: (node,)}


def _constant_bias(add: Node, division: _Division, graph: Graph) -> Array | None:
    """Return the constant [channels] that a sum adds; None if it adds anything else."""
    name = next((name for name in add.inputs if graph.is_constant(name)), None)
    if name is None:
        return None
    value, shape = graph.constants[name], (len(division.numbers), *[1] * division.axes)
    is_bias = value.size == shape[0] and value.shape[-len(shape) :] == shape and value.dtype == division.numbers.dtype
    return value.reshape(-1) if is_bias else None


@dataclass(frozen=True)
class _Affine:
    """The sum x * scale + shift, of `rank` axes."""

    x: str
    scale: Operand
    shift: Operand
    add: Node
    channels: int
    rank: int


def _fuse_sums(lowered: _Lowered, before: Changes) -> Changes:
    """Return the nodes to replace: each Add that completes a map x * scale + shift becomes a BatchNormalization. An Add
    that was already fused with a division (in `before`) is left out."""
    changes: Changes = {}
    plain: dict[int, tuple[str, str]] = {}
    for node in lowered.graph.nodes:
        is_sum = node.op == "Add" and not node.domain and node.output not in before
        affine = _match_affine(node, lowered) if is_sum else None
        if affine is None:
            continue
        if isinstance(affine.scale, str) or isinstance(affine.shift, str):
            changes[node.output] = _sample_batch_norm(affine, lowered, plain)
        else:
            changes[node.output] = _channel_batch_norm(affine, lowered.new)
    return changes


def _match_affine(add: Node, lowered: _Lowered) -> _Affine | None:
    """Match x * scale + shift or x + shift of images, with one scale and shift per channel. `add` is the node of the
    sum. Return None if it is not such a sum."""
    value = lowered.types.values.get(add.output)
    if value is None or len(value.shape) < 4 or value.shape[0] != BATCH or value.dtype != np.float32:
        return None
    channels, rank = value.shape[1], len(value.shape)
    if not isinstance(channels, int):
        return None
    for inner, operand in (add.inputs, add.inputs[::-1]):
        shift, source = _channel_operand(operand, channels, rank, lowered.graph), lowered.idx.producers.get(inner)
        if shift is None or source is None or source.domain:
            continue
        if source.op == "DequantizeLinear":  # a sum without a product before it
            return _Affine(inner, np.ones(channels, np.float32), shift, add, channels, rank)
        scaled = _match_product(source, channels, rank, lowered) if lowered.idx.is_inner(inner) else None
        if scaled is not None:
            return _Affine(*scaled, shift, add, channels, rank)
    return None


def _match_product(node: Node, channels: int, rank: int, lowered: _Lowered) -> tuple[str, Operand] | None:
    """Return x and a if a node is a product x * a with one number in `a` per channel, where x has the shape of the
    product. Otherwise return None."""
    if node.op != "Mul":
        return None
    shape = lowered.types.shape(node.output)
    for x, operand in (node.inputs, node.inputs[::-1]):
        numbers = _channel_operand(operand, channels, rank, lowered.graph)
        is_division = lowered.idx.producer(x, "DequantizeLinear") is not None  # untyped, but of the product's shape
        if numbers is not None and shape is not None and (is_division or lowered.types.shape(x) == shape):
            return (x, numbers) if shape[:2] == (BATCH, channels) else None
    return None


def _channel_operand(name: str, channels: int, rank: int, graph: Graph) -> Operand | None:
    """Return a tensor with one number per channel as an operand: a constant as its values [C], a graph input [B, C, 1,
    ...] as its name. Return None for other tensors."""
    column = (channels, *[1] * (rank - 2))
    constant = graph.constants.get(name)
    if constant is None:
        return name if any(port.name == name and port.shape == (BATCH, *column) for port in graph.inputs) else None
    fits = constant.size == channels and constant.shape[-len(column) :] == column and constant.dtype == np.float32
    return constant.reshape(-1) if fits else None


def _channel_batch_norm(affine: _Affine, new: NewNodes) -> tuple[Node, ...]:
    """Return a BatchNormalization with constants [C]."""
    zeros = new.constant(f"zeros({affine.channels})", np.zeros(affine.channels, np.float32))
    ones = new.constant(f"ones({affine.channels})", np.ones(affine.channels, np.float32))
    parts = {"scale": affine.scale, "shift": affine.shift}
    numbers = [new.constant(f"{part}({affine.add.output})", np.asarray(value)) for part, value in parts.items()]
    inputs = (affine.x, *numbers, zeros, ones)
    return (Node("BatchNormalization", inputs, affine.add.outputs, {"epsilon": 0.0}, affine.add.name),)


def _sample_batch_norm(affine: _Affine, lowered: _Lowered, plain: dict[int, tuple[str, str]]) -> tuple[Node, ...]:
    """Return a BatchNormalization of the view [1, B C, ...]. `plain` caches zeros and ones [B C], by channels."""
    new, result, nodes, rows = lowered.new, affine.add.output, list[Node](), list[str]()
    sample = affine.scale if isinstance(affine.scale, str) else affine.shift  # constants are expanded to its shape
    assert isinstance(sample, str)
    flat = new.constant("flat", np.array([-1]))
    for part, operand in (("scale", affine.scale), ("shift", affine.shift)):
        source = operand
        if not isinstance(source, str):
            picture = new.constant(f"{part}({result})", source.reshape(1, -1, *[1] * (affine.rank - 2)))
            size, source = new.name(f"{result}_{part}_size"), new.name(f"{result}_{part}_spread")
            nodes += [Node("Shape", (sample,), (size,)), Node("Expand", (picture, size), (source,))]
        rows.append(new.name(f"{result}_{part}_row"))
        nodes.append(Node("Reshape", (source, flat), (rows[-1],)))
    if affine.channels not in plain:
        size, zeros, ones = (new.name(f"{part}_of_samples({affine.channels})") for part in ("size", "zeros", "ones"))
        one = {"value": numpy_helper.from_array(np.ones(1, np.float32))}
        nodes.append(Node("Shape", (rows[0],), (size,)))
        nodes += [Node("ConstantOfShape", (size,), (zeros,)), Node("ConstantOfShape", (size,), (ones,), one)]
        plain[affine.channels] = zeros, ones
    source, positions = _view_source(affine, lowered)
    together = new.constant("together", np.array([1, -1, *positions]))
    apart = new.constant(f"apart({affine.channels})", np.array([-1, affine.channels, *[0] * (affine.rank - 2)]))
    joined, normal = new.name(f"{result}_joined"), new.name(f"{result}_rows")
    inputs = (joined, *rows, *plain[affine.channels])
    return (
        *nodes,
        Node("Reshape", (source, together), (joined,)),
        Node("BatchNormalization", inputs, (normal,), {"epsilon": 0.0}, affine.add.name),
        Node("Reshape", (normal, apart), affine.add.outputs),
    )


def _view_source(affine: _Affine, lowered: _Lowered) -> tuple[str, list[int]]:
    """Return the tensor that a Reshape views as [1, B C, ...], and the spatial sizes for that Reshape, where 0 leaves a
    size unchanged. The tensor is x or, if x is itself the result of a Reshape, the input of that Reshape."""
    before = lowered.idx.producer(affine.x, "Reshape")
    shape = None if before is None else lowered.graph.constants.get(before.inputs[1])
    if before is not None and lowered.idx.is_inner(affine.x) and shape is not None and (shape[1:] > 0).all():
        return before.inputs[0], [int(size) for size in shape[2:]]
    return affine.x, [0] * (affine.rank - 2)
