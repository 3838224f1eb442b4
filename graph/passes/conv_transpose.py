"""Write transposed convolutions as convolutions, for which engines have integer kernels."""

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np

from fewstep.graph.additions import NewNodes
from fewstep.graph.graph import Array, Graph, Node

PLAIN = {"auto_pad": b"NOTSET", "group": 1}  # the only values of these attributes
KNOWN = {*PLAIN, "dilations", "kernel_shape", "output_padding", "pads", "strides"}


def expand_conv_transpose(graph: Graph) -> Graph:
    """Write each ConvTranspose of one group as a Conv whose channels are the phases of its stride (sub-pixel
    convolution: Shi et al. 2016, arXiv 1609.05158).

        ConvTranspose(x, W)      ==>      crop(DepthToSpace(Conv(x, phases of W)))

    With stride s, each position of x yields s x s positions, and each phase has every s-th tap of W. The convolution
    has as many products as before, plus some at the border. int8 needs this form: neither onnxruntime nor OpenVINO has
    integer kernels for a ConvTranspose. In one dimension, Reshape and Transpose replace DepthToSpace.
    """
    new = NewNodes(graph)
    nodes: list[Node] = []
    for node in graph.nodes:
        is_transposed = node.op == "ConvTranspose" and not node.domain and all(map(graph.is_constant, node.inputs[1:]))
        weight, *bias = (graph.constants[name] for name in node.inputs[1:]) if is_transposed else (None,)
        phases = None if weight is None else _phases(node, weight)
        nodes.extend([node] if weight is None or phases is None else _conv_nodes(node, weight, bias, phases, new))
    return graph.with_nodes(nodes, new.constants)


@dataclass(frozen=True)
class Phases:
    """The stride, the taps of each phase, and the positions to crop at the start and the end, per spatial axis. The
    number of phases is the product of the strides."""

    strides: tuple[int, ...]
    taps: tuple[int, ...]
    starts: tuple[int, ...]
    ends: tuple[int, ...]


def _phases(node: Node, weight: Array) -> Phases | None:
    """Return the phases of a ConvTranspose; None if it has groups, dilation, auto_pad or more than two spatial axes."""
    attributes, axes = node.attributes, weight.ndim - 2
    is_plain = all(attributes.get(name, value) == value for name, value in PLAIN.items())
    is_dilated = any(dilation != 1 for dilation in attributes.get("dilations", ()))
    if not is_plain or set(attributes) - KNOWN or is_dilated or axes not in (1, 2):
        return None
    strides = tuple(attributes.get("strides", [1] * axes))
    if axes == 2 and strides[0] != strides[1]:
        return None  # DepthToSpace has one stride for both axes
    pads, longer = attributes.get("pads", [0] * 2 * axes), attributes.get("output_padding", [0] * axes)
    taps = tuple(-(-kernel // stride) for kernel, stride in zip(weight.shape[2:], strides, strict=True))
    # n positions become (n - 1 + taps) * stride by phases, and (n - 1) * stride + kernel in a ConvTranspose without
    # pads; pads shorten the result, and output_padding extends its end
    spare = (tap * stride - kernel for tap, stride, kernel in zip(taps, strides, weight.shape[2:], strict=True))
    ends = tuple(more + pad - out for more, pad, out in zip(spare, pads[axes:], longer, strict=True))
    return None if min(ends) < 0 else Phases(strides, taps, tuple(pads[:axes]), ends)


def _conv_nodes(node: Node, weight: Array, bias: Sequence[Array], phases: Phases, new: NewNodes) -> list[Node]:
    """Return the nodes that replace a ConvTranspose with this weight; `bias` is empty or has one tensor."""
    label, axes, stride = node.name or node.output, len(phases.taps), phases.strides[0]
    inputs = (node.inputs[0], new.constant(f"{node.inputs[1]}_phases", _split_weight(weight, phases)))
    result = new.name(f"{node.output}_phases")
    attributes = {"kernel_shape": list(phases.taps), "pads": [tap - 1 for tap in phases.taps] * 2}
    nodes = [Node("Conv", inputs, (result,), attributes, label)]
    if stride > 1:
        spread = new.name(f"{node.output}_spread")
        nodes += _interleave_phases(result, spread, weight.shape[1], stride, axes, label, new)
        result = spread
    if any(phases.starts) or any(phases.ends):
        cut = new.name(f"{node.output}_cut")
        last = [-end if end else np.iinfo(np.int64).max for end in phases.ends]
        limits = (("starts", phases.starts), ("ends", last), ("axes", range(2, 2 + axes)))
        names = [new.constant(f"{node.output}_cut_{name}", np.array(values, np.int64)) for name, values in limits]
        nodes.append(Node("Slice", (result, *names), (cut,), name=f"{label}_cut"))
        result = cut
    for shifts in bias:
        shift = new.constant(f"{node.output}_bias", np.ascontiguousarray(shifts.reshape(1, -1, *[1] * axes)))
        nodes.append(Node("Add", (result, shift), node.outputs, name=f"{label}_bias"))
    nodes[-1] = replace(nodes[-1], outputs=node.outputs)
    return nodes


def _split_weight(weight: Array, phases: Phases) -> Array:
    """Convert the weight [in, out, *kernel] to the weight [out * phases, in, *taps] of a convolution. Phase f has the
    kernel taps f, f + stride, ..., and zeros beyond the kernel."""
    inputs, outputs = weight.shape[:2]
    whole = [tap * stride for tap, stride in zip(phases.taps, phases.strides, strict=True)]
    padded = np.zeros((inputs, outputs, *whole), weight.dtype)
    padded[tuple(slice(size) for size in weight.shape)] = weight
    axes = len(whole)
    sizes = [size for pair in zip(phases.taps, phases.strides, strict=True) for size in pair]  # taps, phases, ...
    split = padded.reshape(inputs, outputs, *sizes)
    split = np.flip(
        split, tuple(2 + 2 * axis for axis in range(axes))
    )  # a convolution applies its taps in reverse order
    order = (1, *(3 + 2 * axis for axis in range(axes)), 0, *(2 + 2 * axis for axis in range(axes)))
    count = int(np.prod(phases.strides))
    return np.ascontiguousarray(split.transpose(order).reshape(outputs * count, inputs, *phases.taps))


def _interleave_phases(x: str, y: str, channels: int, stride: int, axes: int, label: str, new: NewNodes) -> list[Node]:
    """Return the nodes that move channels [B, C * phases, ...] to positions [B, C, ... * stride]."""
    if axes == 2:
        return [Node("DepthToSpace", (x,), (y,), {"blocksize": stride, "mode": b"CRD"}, f"{label}_spread")]
    apart, turned = new.name(f"{y}_apart"), new.name(f"{y}_turned")
    split = new.constant(f"{y}_split", np.array([0, channels, stride, -1], np.int64))
    joined = new.constant(f"{y}_joined", np.array([0, channels, -1], np.int64))
    return [
        Node("Reshape", (x, split), (apart,), name=f"{label}_apart"),
        Node("Transpose", (apart,), (turned,), {"perm": [0, 1, 3, 2]}, f"{label}_turned"),
        Node("Reshape", (turned, joined), (y,), name=f"{label}_spread"),
    ]
