"""A body as the groups that one kernel of cuDNN computes each: a node `Fused` replaces the nodes of a group.

    Fused(x, weights, operands of the epilogue) -> half, or int8 where all readers round it

Its attributes are those of `Operation`: epilogue, precision, floats, strides, pads, dilations. x is int8 after
QuantizeLinear, or 16 bits. Groups are those of TensorRT-RTX's engines: the sums with scales, bias, a residual, an
activation function and a rounding, as far as they follow each other and nothing else reads what is between.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np

from benchmarks.nvidia.cudnn.fused_nodes import FUSED, operation_of
from benchmarks.nvidia.cudnn.operations import Floats, Operation
from fewstep.graph.graph import BATCH, Array, Graph, Node
from fewstep.graph.index import Index, index
from fewstep.graph.pattern import match
from fewstep.graph.types import Types, infer_types
from fewstep.plans.errors import UserError

FLOATS: Mapping[str, Floats] = {"float16": "half", "bfloat16": "bfloat16"}  # types of numpy, and their names here
UNARY = {"Relu": "relu", "Tanh": "tanh", "Sigmoid": "sigmoid"}
ORDER = ("scale", "factor", "bias", "residual", "activation", "inverse_step")


@dataclass
class _Group:
    """A group that grows along the nodes after its product. operands: of the steps that read one, in their order."""

    value: str
    precision: str
    x: str
    weights: Array
    steps: list[str] = field(default_factory=list)
    operands: list[Array | str] = field(default_factory=list)
    nodes: list[Node] = field(default_factory=list)

    def takes(self, step: str) -> bool:
        """Return whether a step may follow those in the group."""
        kinds = [each if each in ORDER else "activation" for each in self.steps]
        return all(ORDER.index(kind) < ORDER.index(step) for kind in kinds)

    def add(self, step: str, operand: Array | str | None, *nodes: Node) -> None:
        self.steps.append(step)
        self.operands += [] if operand is None else [operand]
        self.nodes += nodes
        self.value = nodes[-1].output


def fuse_groups(graph: Graph) -> Graph:
    """The graph with its groups as nodes `Fused`. Products of matrices in 16 bits stay as they are.

    Raises UserError for a body with other floats than float16 or bfloat16 around int8.
    """
    kinds = {str(constant.dtype) for constant in graph.constants.values()}
    others = kinds - {*FLOATS, "int8", "int64", "float32", "int32"}
    if others or kinds.issuperset(FLOATS):
        named = ", ".join(sorted(others or FLOATS))
        raise UserError(f"the body has numbers of type {named}", "choose one in int8 and float16, or bfloat16")
    floats = FLOATS["bfloat16" if "bfloat16" in kinds else "float16"]
    idx, types, taken = index(graph), infer_types(graph), set[str]()
    groups: dict[str, _Group] = {}  # by the output of their last node
    for node in graph.nodes:
        group = _start(node, idx) if node.op in ("Conv", "MatMul") else None
        if group is not None:
            _grow(group, idx, types, taken)
            taken.update(each.output for each in group.nodes)
            groups[group.nodes[-1].output] = group
    constants: dict[str, Array] = {}
    nodes = []
    for node in graph.nodes:
        if node.output in groups:
            nodes.append(_group_node(groups[node.output], constants, floats))
        elif node.output not in taken:
            nodes.append(node)
    return _without_unread(graph.with_nodes(nodes, constants))


def _start(node: Node, idx: Index) -> _Group | None:
    """Return the group of a product with weights, without an epilogue."""
    sources = [idx.producer(name, "DequantizeLinear") for name in node.inputs[:2]]
    constants = idx.graph.constants
    if all(source is not None and source.inputs[1] in constants for source in sources):
        image, weights = (source.inputs for source in sources if source is not None)
        if weights[0] not in constants:
            return None
        group = _Group(node.output, "int8", image[0], constants[weights[0]], nodes=[node])
        channels = group.weights.shape[0 if node.op == "Conv" else -1]
        scale = constants[image[1]].astype(np.float32) * constants[weights[1]].astype(np.float32).reshape(-1)
        group.steps, group.operands = ["scale"], [np.broadcast_to(scale, channels).copy()]
        return group
    if node.op == "Conv" and node.inputs[1] in constants:
        kernel = constants[node.inputs[1]]
        return _Group(node.output, FLOATS.get(str(kernel.dtype), "half"), node.inputs[0], kernel, nodes=[node])
    return None


def _grow(group: _Group, idx: Index, types: Types, taken: set[str]) -> None:
    """Add the nodes after the product, as far as one kernel computes them."""
    while _add_next(group, idx, types, taken):
        pass


def _add_next(group: _Group, idx: Index, types: Types, taken: set[str]) -> bool:
    readers = idx.consumers.get(group.value, ())
    if group.value in idx.outputs or any(node.output in taken for node in readers):
        return False
    if len(readers) == 2 and group.takes("activation"):
        silu = next((node for node in readers if match(node, "Mul(x, *Sigmoid(x))", idx) is not None), None)
        if silu is None:
            return False
        group.add("silu", None, *(node for node in readers if node is not silu), silu)
        return True
    if len(readers) != 1:
        return False
    node = readers[0]
    if node.op in ("Mul", "Add") and len(set(node.inputs)) == 2:
        return _add_arithmetic(group, node, idx, types)
    if node.op in UNARY and group.takes("activation"):
        group.add(UNARY[node.op], None, node)
        return True
    if node.op == "Gelu" and node.attributes.get("approximate") == b"tanh" and group.takes("activation"):
        group.add("gelu_tanh", None, node)
        return True
    if node.op == "QuantizeLinear" and group.precision == "int8" and group.takes("inverse_step"):
        step = idx.graph.constants[node.inputs[1]].astype(np.float32)
        group.add("inverse_step", 1 / step.reshape(1), node)
        return True
    return False


def _add_arithmetic(group: _Group, node: Node, idx: Index, types: Types) -> bool:
    """Add a product with ratios of channels or a factor, or a sum with a bias or a residual."""
    other = next(name for name in node.inputs if name != group.value)
    constant, shape = idx.graph.constants.get(other), types.shape(group.value)
    is_conv = group.weights.ndim > 2
    channels = group.weights.shape[0 if is_conv else -1]
    if constant is not None:
        by_channel = _by_channel(constant, channels, len(shape or ()), is_conv)
        if by_channel is None:
            return False
        if node.op == "Mul" and group.steps == ["scale"]:
            group.operands = [group.operands[0] * by_channel.astype(np.float32)]
            group.nodes.append(node)
            group.value = node.output
            return True
        if node.op == "Add" and group.takes("bias"):
            group.add("bias", by_channel.astype(np.float32 if group.precision == "int8" else group.weights.dtype), node)
            return True
        return False
    if node.op == "Mul" and group.precision == "int8" and types.shape(other) in ((), (1,)) and group.takes("factor"):
        group.add("factor", other, node)
        return True
    if node.op == "Add" and shape is not None and types.shape(other) == shape and group.takes("residual"):
        group.add("residual", other, node)
        return True
    return False


def _by_channel(constant: Array, channels: int, rank: int, is_conv: bool) -> Array | None:
    """Return a constant as one number for each channel, if possible."""
    if constant.size == 1:
        return np.broadcast_to(constant.reshape(1), channels).copy()
    places = (1,) * rank + constant.shape
    axis = 1 if is_conv else rank - 1
    sizes = places[-rank:]
    if constant.ndim > rank or constant.size != channels or sizes[axis] != channels:
        return None
    return constant.reshape(channels)


def _group_node(group: _Group, constants: dict[str, Array], floats: Floats) -> Node:
    first, output = group.nodes[0], group.nodes[-1].output
    names = []
    for number, operand in enumerate((group.weights, *group.operands)):
        if isinstance(operand, str):
            names.append(operand)
        else:
            names.append(f"{output}/{number}")
            constants[names[-1]] = operand
    attributes = {"epilogue": tuple(group.steps), "precision": group.precision, "product": first.output}
    attributes["floats"] = floats
    return Node(FUSED, (group.x, *names), (output,), {**attributes, **_windows(first, group.weights)}, domain="cudnn")


def _windows(node: Node, weights: Array) -> dict[str, Any]:
    """Strides, pads and dilations of a convolution, with two numbers for each end of an axis; those of a signal have a
    height of 1."""
    if node.op != "Conv":
        return {}
    if node.attributes.get("auto_pad", b"NOTSET") != b"NOTSET":
        raise UserError(f"{node.name or node.output!r} pads by itself", "export the model again: pads are numbers")
    rank = weights.ndim - 2
    if rank > 2:
        raise UserError(f"{node.name or node.output!r} has {rank} axes", "choose a body with one or two")
    strides, dilations = (tuple(node.attributes.get(name, (1,) * rank)) for name in ("strides", "dilations"))
    pads = tuple(node.attributes.get("pads", (0,) * 2 * rank))
    if rank == 1:
        strides, dilations, pads = (1, *strides), (1, *dilations), (0, pads[0], 0, pads[1])
    return {"strides": strides, "pads": pads, "dilations": dilations}


def _without_unread(graph: Graph) -> Graph:
    """Return the graph without nodes and constants that are not read."""
    needed = index(graph).dependencies(value.name for value in graph.outputs)
    nodes = tuple(node for node in graph.nodes if not needed.isdisjoint(node.outputs))
    read = {name for node in nodes for name in node.inputs}
    return replace(
        graph, nodes=nodes, constants={name: graph.constants[name] for name in graph.constants if name in read}
    )


def operations_of(graph: Graph, fused: Graph, batch: int) -> dict[str, Operation]:
    """The operations of all groups of a body, by their products, for a batch.

    graph: the body as it was before `fuse_groups`.
    """
    types = infer_types(graph)
    found = {}
    for node in fused.nodes:
        if node.op == FUSED:
            shape = types.shape(node.inputs[0])
            if shape is None or any(isinstance(size, str) and size != BATCH for size in shape):
                raise UserError(f"the shape of {node.inputs[0]!r} is unknown", "choose a body without free sizes")
            x = tuple(batch if isinstance(size, str) else size for size in shape)
            found[node.attributes["product"]] = operation_of(node, x, fused.constants[node.inputs[1]].shape)
    return found
