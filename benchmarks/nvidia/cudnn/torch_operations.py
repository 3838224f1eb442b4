"""ONNX operations of bodies as calls of torch. Numbers that decide a shape are read once, when a call is made."""

from collections.abc import Callable, Mapping
from functools import partial
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional

from fewstep.graph.graph import Array, Node
from fewstep.plans.errors import UserError

Call = Callable[..., Any]  # the tensors of a node's inputs, None for one that is left out -> its output, or a tuple
Constants = Mapping[str, Array]
TYPES = {1: torch.float32, 6: torch.int32, 7: torch.int64, 10: torch.float16, 16: torch.bfloat16}  # of onnx.TensorProto
ATTENTION = "Attention"


def call_of(node: Node, constants: Constants) -> Call:
    """The call of a node. UserError for an operation that has none here."""
    if node.op in PLAIN:
        return PLAIN[node.op]
    if node.op not in MADE:
        raise UserError(f"operation {node.op} has no form in torch here", "choose another denoiser")
    return MADE[node.op](node, constants)


def numbers(node: Node, constants: Constants, place: int) -> list[Any]:
    """An input of a node that must be constant, as numbers."""
    if len(node.inputs) <= place or node.inputs[place] not in constants:
        raise UserError(f"{node.op} {node.output!r} computes a shape", "choose another denoiser")
    return list(constants[node.inputs[place]].reshape(-1).tolist())


def _reshape(node: Node, constants: Constants) -> Call:
    sizes = numbers(node, constants, 1)

    def call(x: Tensor, _: Any) -> Tensor:
        return x.reshape([x.shape[axis] if size == 0 else size for axis, size in enumerate(sizes)])

    return call


def _transpose(node: Node, _: Constants) -> Call:
    return lambda x: x.permute(tuple(node.attributes["perm"]))


def _cast(node: Node, _: Constants) -> Call:
    return lambda x: x.to(TYPES[node.attributes["to"]])


def _gather(node: Node, constants: Constants) -> Call:
    axis = node.attributes.get("axis", 0)
    if node.inputs[1] in constants and constants[node.inputs[1]].ndim == 0:
        return lambda x, _: x.select(axis, int(constants[node.inputs[1]]))
    return lambda x, rows: x.index_select(axis, rows.reshape(-1)).unflatten(axis, tuple(rows.shape) or (1,))


def _split(node: Node, constants: Constants) -> Call:
    axis = node.attributes.get("axis", 0)
    if len(node.inputs) > 1:
        sizes = numbers(node, constants, 1)
        return lambda x, *_: x.split(sizes, axis)
    return lambda x: x.chunk(len(node.outputs), axis)


def _pad(node: Node, constants: Constants) -> Call:
    if node.attributes.get("mode", b"constant") != b"constant":
        raise UserError(f"Pad {node.output!r} does not pad with a constant", "choose another denoiser")
    pads = numbers(node, constants, 1)
    value = float(numbers(node, constants, 2)[0]) if len(node.inputs) > 2 and node.inputs[2] else 0.0
    rank = len(pads) // 2
    ends = [pads[axis + side * rank] for axis in reversed(range(rank)) for side in (0, 1)]
    return lambda x, *_: functional.pad(x, ends, value=value)


def _resize(node: Node, constants: Constants) -> Call:
    if node.attributes.get("mode", b"nearest") != b"nearest":
        raise UserError(f"Resize {node.output!r} is not nearest-neighbour", "choose another denoiser")
    scales = tuple(float(scale) for scale in numbers(node, constants, 2)[2:])
    if any(scale != int(scale) for scale in scales):
        raise UserError(f"Resize {node.output!r} has factors that are not integers", "choose another denoiser")
    return lambda x, *_: functional.interpolate(x, scale_factor=scales, mode="nearest")


def _slice(node: Node, constants: Constants) -> Call:
    starts, ends, axes = (numbers(node, constants, place) for place in (1, 2, 3))
    steps = numbers(node, constants, 4) if len(node.inputs) > 4 else [1] * len(axes)

    def call(x: Tensor, *_: Any) -> Tensor:
        places = [slice(None)] * x.ndim
        for axis, start, end, step in zip(axes, starts, ends, steps, strict=True):
            places[axis] = slice(start, min(end, x.shape[axis]), step)
        return x[tuple(places)]

    return call


def _unsqueeze(node: Node, constants: Constants) -> Call:
    axes = sorted(numbers(node, constants, 1))

    def call(x: Tensor, _: Any) -> Tensor:
        for axis in axes:
            x = x.unsqueeze(axis)
        return x

    return call


def _elu(node: Node, _: Constants) -> Call:
    return partial(functional.elu, alpha=node.attributes.get("alpha", 1.0))


def _average_pool(node: Node, _: Constants) -> Call:
    """Average pooling of images without padding. With padding, `count_include_pad` would matter."""
    sizes = tuple(node.attributes["kernel_shape"])
    others = [*node.attributes.get("pads", ()), node.attributes.get("ceil_mode", 0)]
    others += [each - 1 for each in node.attributes.get("dilations", ())]
    if len(sizes) != 2 or any(others) or node.attributes.get("auto_pad", b"NOTSET") != b"NOTSET":
        raise UserError(f"AveragePool {node.output!r} is not of plain windows of an image", "choose another denoiser")
    strides = tuple(node.attributes.get("strides", (1, 1)))
    return lambda x: functional.avg_pool2d(x, sizes, strides)


def _depth_to_space(node: Node, _: Constants) -> Call:
    if node.attributes.get("mode", b"DCR") != b"CRD":
        raise UserError(f"DepthToSpace {node.output!r} is not in the order CRD", "choose another denoiser")
    return partial(functional.pixel_shuffle, upscale_factor=node.attributes["blocksize"])


def _instance_norm(node: Node, _: Constants) -> Call:
    epsilon = node.attributes.get("epsilon", 1e-5)

    def call(x: Tensor, scale: Tensor, shift: Tensor) -> Tensor:
        axes = tuple(range(2, x.ndim))
        variance, mean = torch.var_mean(x.float(), dim=axes, correction=0, keepdim=True)
        by_channel = (1, -1) + (1,) * (x.ndim - 2)
        normed = (x.float() - mean) * torch.rsqrt(variance + epsilon)
        return (normed * scale.float().view(by_channel) + shift.float().view(by_channel)).to(x.dtype)

    return call


def _layer_norm(node: Node, _: Constants) -> Call:
    if node.attributes.get("axis", -1) != -1:
        raise UserError(f"LayerNormalization {node.output!r} is over several axes", "choose another denoiser")
    epsilon = node.attributes.get("epsilon", 1e-5)
    return lambda x, scale, shift=None: functional.layer_norm(x, x.shape[-1:], scale, shift, epsilon)


def _gelu(node: Node, _: Constants) -> Call:
    return partial(functional.gelu, approximate=node.attributes.get("approximate", b"none").decode())


def _quantize(node: Node, constants: Constants) -> Call:
    """Symmetric int8. A division, since a product with the inverse rounds elsewhere."""
    (step,) = numbers(node, constants, 1)
    if constants[node.inputs[1]].size != 1 or constants[node.inputs[2]].any():
        raise UserError(f"QuantizeLinear {node.output!r} is not symmetric with one scale", "choose another body")
    return lambda x, *_: torch.round(x.float() / step).clamp(-128, 127).to(torch.int8)


def _dequantize(node: Node, constants: Constants) -> Call:
    (step,) = numbers(node, constants, 1)
    floats = {"float16": torch.float16, "bfloat16": torch.bfloat16}
    result = floats.get(constants[node.inputs[1]].dtype.name, torch.float32)
    return lambda x, *_: (x.float() * step).to(result)


def _axis_op(function: Callable[..., Any]) -> Callable[[Node, Constants], Call]:
    return lambda node, _: partial(function, dim=node.attributes.get("axis", -1))


def _concat(node: Node, _: Constants) -> Call:
    return lambda *parts: torch.cat(parts, node.attributes["axis"])


def attention(queries: Tensor, keys: Tensor, values: Tensor) -> Tensor:
    """softmax(queries @ keys) @ values, with keys [..., features, places] and scales in the queries."""
    return functional.scaled_dot_product_attention(queries, keys.transpose(-1, -2), values, scale=1.0)


PLAIN: Mapping[str, Call] = {
    "Add": torch.add,
    "Sub": torch.sub,
    "Mul": torch.mul,
    "Div": torch.div,
    "MatMul": torch.matmul,
    "Sigmoid": torch.sigmoid,
    "Tanh": torch.tanh,
    "Relu": torch.relu,
    "Sqrt": torch.sqrt,
    "Mish": functional.mish,
    "Identity": lambda x: x,
    ATTENTION: attention,
}
MADE: Mapping[str, Callable[[Node, Constants], Call]] = {
    "AveragePool": _average_pool,
    "Cast": _cast,
    "Concat": _concat,
    "DepthToSpace": _depth_to_space,
    "DequantizeLinear": _dequantize,
    "Elu": _elu,
    "Gather": _gather,
    "Gelu": _gelu,
    "InstanceNormalization": _instance_norm,
    "LayerNormalization": _layer_norm,
    "Pad": _pad,
    "QuantizeLinear": _quantize,
    "Reshape": _reshape,
    "Resize": _resize,
    "Slice": _slice,
    "Softmax": _axis_op(torch.softmax),
    "Split": _split,
    "Transpose": _transpose,
    "Unsqueeze": _unsqueeze,
}
