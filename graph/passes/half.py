"""Write a graph in a float type of 16 bits, for targets whose engines are strongly typed.

Opset 20 defines bfloat16 for fewer operations than float16: Conv has it from 22 on. The types are engines' types. So
what takes float16 takes bfloat16, and the opset stays what their oldest parsers read. onnxruntime's CPU has no such
kernels: see `rounding.py`.
"""

from collections.abc import Collection, Iterator, Mapping
from dataclasses import replace
from typing import Any

import numpy as np
import onnx
from onnx import TensorProto

from fewstep.graph.graph import Array, Graph, Node, Value
from fewstep.graph.half_types import largest_number, onnx_type, smallest_number
from fewstep.graph.index import index
from fewstep.graph.io import OPSET
from fewstep.graph.squared_sums import inner_tensors, squared_sums
from fewstep.graph.types import infer_types

TAKEN = "tensor(float16)"


def to_half(graph: Graph, half: np.dtype[Any]) -> Graph:
    """Compute in a float type of 16 bits between float32 inputs and outputs. Inner tensors keep their names.

        f(x, W)      ==>      Cast(f(Cast(x), half(W)))

    A weight beyond the range of the type becomes its greatest number, and an infinity stays one. A single number that
    would become zero, as the epsilon of a norm, becomes the least positive one. An input that its operation takes in
    float32 only, such as the scales of a Resize, stays float32. So do sums of squares, up to their root
    (`squared_sums`).
    """
    exact = squared_sums(graph)  # which stay float32
    inner = inner_tensors(graph, exact)
    inputs = {v.name: _half_of(v.name, half) for v in (*graph.inputs, *graph.optional) if v.dtype == np.float32}
    outputs = {v.name: _half_of(v.name, half) for v in graph.outputs if v.dtype == np.float32}
    constants: dict[str, Array] = {}
    nodes = [make_cast(name, result, onnx_type(half)) for name, result in inputs.items()]
    for node in graph.nodes:
        if node.outputs[0] in exact:
            nodes += _wrap_in_float32(node, {*graph.constants, *inner}, inputs | outputs, half)
            continue
        names = list(node.inputs)
        for position, name in enumerate(names):
            if name in inputs or name in outputs:
                names[position] = inputs.get(name) or outputs[name]
            elif name in graph.constants:
                value = graph.constants[name]
                if value.dtype == np.float32 and takes_half(node, position):
                    names[position] = _half_of(name, half)
                    constants[names[position]] = round_weight(value, half)
        results = tuple(outputs.get(name, name) for name in node.outputs)
        nodes.append(replace(node, inputs=tuple(names), outputs=results, attributes=_attributes(node, half)))
    nodes.extend(make_cast(result, name, TensorProto.FLOAT) for name, result in outputs.items())
    return graph.with_nodes(nodes, constants)


def float32_tensors(graph: Graph) -> Iterator[Value]:
    """The inner tensors that a graph of `to_half` still computes in float32, by ONNX's type inference. Sums of squares
    are none of them."""
    sums, idx = squared_sums(graph), index(graph)
    edges = {value.name for value in (*graph.inputs, *graph.outputs)} | sums
    edges |= {name for name, readers in idx.consumers.items() if all(each.outputs[0] in sums for each in readers)}
    types = infer_types(graph)
    for name in (output for node in graph.nodes for output in node.outputs):
        value = types.values.get(name)
        if value is not None and value.dtype == np.float32 and name not in edges:
            yield value


def round_weight(value: Array, half: np.dtype[Any]) -> Array:
    """A weight in a float type of 16 bits, by the rules of `to_half`."""
    clipped = np.clip(value, -largest_number(half), largest_number(half))
    number: Array = np.where(np.isinf(value), value, clipped).astype(half)  # a mask of -inf has another meaning
    if value.size == 1:
        least = np.copysign(np.float32(smallest_number(half)), value)
        number = np.where((number == 0) & (value != 0), least.astype(half), number)
    return number


def _half_of(name: str, half: np.dtype[Any]) -> str:
    return f"{half.name}({name})"


def _wrap_in_float32(node: Node, floats: Collection[str], names: Mapping[str, str], half: np.dtype[Any]) -> list[Node]:
    """A node of `squared_sums` and the casts around it. `floats`: tensors that are float32. `names`: of other ports."""
    (result,) = node.outputs
    wide = {name: f"float32({name}) for {result}" for name in node.inputs if name and name not in floats}
    before = [make_cast(names.get(name, name), each, TensorProto.FLOAT) for name, each in wide.items()]
    made = result if result in floats else f"sum({result})"
    after = [] if result in floats else [make_cast(made, names.get(result, result), onnx_type(half))]
    return [*before, replace(node, inputs=tuple(wide.get(name, name) for name in node.inputs), outputs=(made,)), *after]


def make_cast(name: str, result: str, to: int) -> Node:
    """The node that makes a tensor of another type of one."""
    return Node("Cast", (name,), (result,), {"to": to}, name=f"cast({result})")


def _attributes(node: Node, half: np.dtype[Any]) -> dict[str, object]:
    """The attributes of a node. A Cast to float32 becomes a Cast to the type of 16 bits."""
    attributes = dict(node.attributes)
    if node.op == "Cast" and attributes.get("to") == TensorProto.FLOAT:
        attributes["to"] = onnx_type(half)
    return attributes


def takes_half(node: Node, position: int) -> bool:
    """True where an operation may read float16 at an input position, by its definition, or else bfloat16.

    onnx does not define the operations that onnxruntime adds. They count as allowing it, since their weights mostly
    have the type of x.
    """
    try:
        schema = onnx.defs.get_schema(node.op, OPSET, node.domain)
    except onnx.defs.SchemaError:
        return True
    formal = schema.inputs[min(position, len(schema.inputs) - 1)]
    allowed = {each.type_param_str: each.allowed_type_strs for each in schema.type_constraints}
    return TAKEN in allowed.get(formal.type_str, (formal.type_str,))  # `formal.types` cannot be read in onnx 1.20
