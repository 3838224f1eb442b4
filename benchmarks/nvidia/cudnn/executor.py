"""Run a body of fused groups in torch. The caller gives the implementation of groups: integers on any device, or
kernels of cuDNN.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

from benchmarks.nvidia.cudnn.fused_nodes import FUSED, operation_of
from benchmarks.nvidia.cudnn.operations import Operation
from benchmarks.nvidia.cudnn.torch_operations import ATTENTION, call_of
from fewstep.graph.graph import Array, Graph, Node
from fewstep.graph.index import index
from fewstep.graph.pattern import match

Compute = Callable[[Operation, str, Tensor, Tensor, Sequence[Tensor]], Tensor]
ACTIVATE: Mapping[str, Callable[[Tensor], Tensor]] = {
    "silu": functional.silu,
    "gelu_tanh": lambda x: functional.gelu(x, approximate="tanh"),
    "relu": torch.relu,
    "tanh": torch.tanh,
    "sigmoid": torch.sigmoid,
}
RESULTS = {"int32": torch.int32, "int8": torch.int8, "half": torch.float16, "bfloat16": torch.bfloat16}


@dataclass(frozen=True)
class _Step:
    call: Callable[..., Any]
    inputs: tuple[str, ...]
    outputs: tuple[str, ...]


class Executor:
    """A graph of `fuse_groups` on a device.

    compute: gives the result of a group from its operation, its name, x, weights and operands of the epilogue. Tensors
    of a convolution have four axes.
    """

    def __init__(self, graph: Graph, device: str, compute: Compute) -> None:
        graph = with_attention(graph)
        self._constants = {name: to_torch(array).to(device) for name, array in graph.constants.items()}
        for node in graph.nodes:
            if node.op == FUSED:
                self._constants[node.inputs[1]] = lay_out_weights(self._constants[node.inputs[1]])
        self._steps = [_step(node, graph, compute) for node in graph.nodes]
        self._outputs = [value.name for value in graph.outputs]

    def __call__(self, feeds: Mapping[str, Tensor]) -> list[Tensor]:
        """The outputs of the graph for its inputs."""
        values = {**self._constants, **feeds}
        for step in self._steps:
            found = step.call(*(values[name] if name else None for name in step.inputs))
            several = found if isinstance(found, tuple | list) else (found,)
            values.update(zip(step.outputs, several, strict=True))
        return [values[name] for name in self._outputs]


def check_operations(graph: Graph) -> None:
    """Raise UserError for the first operation that an `Executor` has no call for."""
    for node in with_attention(graph).nodes:
        if node.op != FUSED:
            call_of(node, graph.constants)


def _step(node: Node, graph: Graph, compute: Compute) -> _Step:
    if node.op != FUSED:
        return _Step(call_of(node, graph.constants), node.inputs, node.outputs)
    return _Step(_group_call(node, compute), node.inputs, node.outputs)


def _group_call(node: Node, compute: Compute) -> Callable[..., Tensor]:
    """Return the call of a group, with cuDNN's shapes, and the reshapes before and after it."""
    is_product, name = "strides" not in node.attributes, node.attributes["product"]

    def call(x: Tensor, weights: Tensor, *operands: Tensor) -> Tensor:
        of = operation_of(node, tuple(x.shape), tuple(weights.shape))
        shape = of.y
        if is_product:
            shape = (*x.shape[:-1], weights.shape[-1])
        elif x.ndim == 3:
            shape = (shape[0], shape[1], shape[3])
        with_axes = [operand.reshape(of.y) if operand.ndim > 1 else operand for operand in operands]
        return compute(of, name, x.reshape(of.x), weights.reshape(of.weights), with_axes).reshape(shape)

    return call


def to_torch(array: Array) -> Tensor:
    """A copy of an array of numpy as a tensor. numpy's bfloat16 is a type that torch does not read."""
    if array.dtype.name == "bfloat16":
        return torch.from_numpy(np.array(array).view(np.int16)).view(torch.bfloat16)
    return torch.from_numpy(np.array(array))


def lay_out_weights(weights: Tensor) -> Tensor:
    """Weights as kernels take them: with channels last, and the window of a signal with a height of 1; or column by
    column."""
    if weights.ndim == 2:
        return weights.T.contiguous().T
    picture = weights if weights.ndim == 4 else weights.unsqueeze(2)
    return picture.contiguous(memory_format=torch.channels_last)


def with_attention(graph: Graph) -> Graph:
    """The graph with softmax(q k) v as one node, so that torch needs no room for q k."""
    idx, dropped, nodes = index(graph), set[str](), []
    for node in graph.nodes:
        found = match(node, "MatMul(*Softmax(*MatMul(q, k)), v)", idx)
        if found is not None and found.nodes[1].attributes.get("axis", -1) in (-1, 3):
            dropped.update(each.output for each in found.nodes[1:])
            node = replace(node, op=ATTENTION, inputs=(found["q"], found["k"], found["v"]), attributes={})
        nodes.append(node)
    return graph.with_nodes(node for node in nodes if node.output not in dropped)


def finish(of: Operation, sums: Tensor, operands: Sequence[Tensor]) -> Tensor:
    """The epilogue of an operation in float32."""
    value = sums if of.result == "int32" else sums.float()
    rest = iter(operands)
    by_channel = (1, -1, 1, 1) if of.is_convolution else (1, 1, -1)
    for step in of.epilogue:
        if step in ACTIVATE:
            value = ACTIVATE[step](value)
            continue
        operand = next(rest)
        operand = (operand if step == "residual" else operand.reshape(by_channel)).float()
        value = value + operand if step in ("bias", "residual") else value * operand
    if of.result == "int8":
        value = torch.round(value).clamp(-128, 127)
    return value.to(RESULTS[of.result])


class IntegerKernels:
    """Groups in exact integers, on any device. sums: the int32 sums of each int8 group of the last call, by its
    product.
    """

    def __init__(self) -> None:
        self.sums: dict[str, Tensor] = {}

    def __call__(self, of: Operation, name: str, x: Tensor, weights: Tensor, operands: Sequence[Tensor]) -> Tensor:
        is_int8 = of.precision == "int8"
        sums = exact_products(of, x, weights) if is_int8 else float_products(of, x.float(), weights.float())
        if is_int8:
            self.sums[name] = sums = sums.to(torch.int32)
        return finish(of, sums, operands)


def exact_products(of: Operation, x: Any, weights: Any) -> Any:
    """Return sums of products of integers in float64, which is exact: windows are columns of one matrix, since
    libraries may compute a convolution by a transform that rounds.
    """
    if not of.is_convolution:
        return x.double() @ weights.double()
    top, left, bottom, right = of.pads
    padded = functional.pad(x.double(), (left, right, top, bottom))
    columns = functional.unfold(padded, of.weights[2:], of.dilations, 0, of.strides)
    groups = x.shape[1] // weights.shape[1]
    by_group = columns.unflatten(1, (groups, -1))
    matrices = weights.double().flatten(1).unflatten(0, (groups, -1))
    return torch.einsum("ngkp,gfk->ngfp", by_group, matrices).flatten(1, 2).unflatten(2, of.y[2:])


def float_products(of: Operation, x: Tensor, weights: Tensor) -> Tensor:
    """The product in the type of x."""
    if not of.is_convolution:
        return x @ weights
    top, left, bottom, right = of.pads
    padded = functional.pad(x, (left, right, top, bottom)) if any(of.pads) else x
    groups = x.shape[1] // weights.shape[1]
    return functional.conv2d(padded, weights, None, of.strides, 0, of.dilations, groups)
