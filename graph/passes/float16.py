"""Write a graph in float16, for targets whose engines are strongly typed."""

from collections.abc import Iterator
from dataclasses import replace

import numpy as np
import onnx
from onnx import TensorProto

from fewstep.graph.graph import Array, Graph, Node, Value
from fewstep.graph.io import OPSET
from fewstep.graph.types import infer_types

LARGEST = float(np.finfo(np.float16).max)
LEAST = float(np.finfo(np.float16).smallest_subnormal)
HALF = "tensor(float16)"


def to_float16(graph: Graph) -> Graph:
    """Compute in float16 between float32 inputs and outputs. Inner tensors keep their names.

        f(x, W)      ==>      Cast(f(Cast(x), float16(W)))

    A weight beyond the range of float16 becomes its greatest number. A single number that would become zero, as the
    epsilon of a norm, becomes the least positive one. An input that its operation takes in float32 only, such as the
    scales of a Resize, stays float32.
    """
    inputs = {v.name: _half_of(v.name) for v in (*graph.inputs, *graph.optional) if v.dtype == np.float32}
    outputs = {v.name: _half_of(v.name) for v in graph.outputs if v.dtype == np.float32}
    constants: dict[str, Array] = {}
    nodes = [_cast(name, half, TensorProto.FLOAT16) for name, half in inputs.items()]
    for node in graph.nodes:
        names = list(node.inputs)
        for position, name in enumerate(names):
            if name in inputs or name in outputs:
                names[position] = inputs.get(name) or outputs[name]
            elif name in graph.constants:
                value = graph.constants[name]
                if value.dtype == np.float32 and takes_half(node, position):
                    constants[_half_of(name)] = rounded(value)
                    names[position] = _half_of(name)
        results = tuple(outputs.get(name, name) for name in node.outputs)
        nodes.append(replace(node, inputs=tuple(names), outputs=results, attributes=_attributes(node)))
    nodes.extend(_cast(half, name, TensorProto.FLOAT) for name, half in outputs.items())
    return graph.with_nodes(nodes, constants)


def float32_tensors(graph: Graph) -> Iterator[Value]:
    """The inner tensors that a graph of `to_float16` still computes in float32, by ONNX's type inference."""
    edges = {value.name for value in (*graph.inputs, *graph.outputs)}
    types = infer_types(graph)
    for name in (output for node in graph.nodes for output in node.outputs):
        value = types.values.get(name)
        if value is not None and value.dtype == np.float32 and name not in edges:
            yield value


def rounded(value: Array) -> Array:
    """A weight in float16, by the rules of `to_float16`."""
    half: Array = np.clip(value, -LARGEST, LARGEST).astype(np.float16)
    if value.size == 1:
        half = np.where((half == 0) & (value != 0), np.copysign(LEAST, value), half).astype(np.float16)
    return half


def _half_of(name: str) -> str:
    return f"float16({name})"


def _cast(name: str, result: str, to: int) -> Node:
    return Node("Cast", (name,), (result,), {"to": to}, name=f"cast({result})")


def _attributes(node: Node) -> dict[str, object]:
    """The attributes of a node. A Cast to float32 becomes a Cast to float16."""
    attributes = dict(node.attributes)
    if node.op == "Cast" and attributes.get("to") == TensorProto.FLOAT:
        attributes["to"] = TensorProto.FLOAT16
    return attributes


def takes_half(node: Node, position: int) -> bool:
    """Whether an operation may read float16 at an input position, by its definition.

    onnx does not define the operations that onnxruntime adds. They count as allowing it, since their weights mostly
    have the type of x.
    """
    try:
        schema = onnx.defs.get_schema(node.op, OPSET, node.domain)
    except onnx.defs.SchemaError:
        return True
    formal = schema.inputs[min(position, len(schema.inputs) - 1)]
    allowed = {each.type_param_str: each.allowed_type_strs for each in schema.type_constraints}
    return HALF in allowed.get(formal.type_str, (formal.type_str,))  # `formal.types` cannot be read in onnx 1.20
