"""Convert a 16-bit graph to float32, the type in which graphs are calibrated and from which they are lowered."""

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import numpy as np
import onnx
from onnx import TensorProto, numpy_helper

from fewstep.graph.graph import Graph, Node, Value
from fewstep.graph.half_types import HALVES, onnx_type

HALF_TYPES = tuple(map(onnx_type, HALVES.values()))
TYPE_ATTRIBUTES = {
    "Cast": "to",
    **dict.fromkeys(("Bernoulli", "EyeLike", "RandomNormal", "RandomUniform"), "dtype"),
    **dict.fromkeys(("RandomNormalLike", "RandomUniformLike"), "dtype"),
    **dict.fromkeys(("BlackmanWindow", "HammingWindow", "HannWindow", "MelWeightMatrix"), "output_datatype"),
}


def to_float32(graph: Graph) -> Graph:
    """Compute in float32 instead of 16 bits. Weights keep their values.

    x (float16) -> Conv(W as float16) -> y (float16)      ==>      x -> Conv(W as float32) -> y, all float32
    """
    halves = {name: array for name, array in graph.constants.items() if array.dtype in HALVES.values()}
    wide = {name: array.astype(np.float32) for name, array in halves.items()}
    return graph.with_ports(_value).with_nodes(map(_node, graph.nodes), wide)


def has_type(graph: Graph, half: np.dtype[Any]) -> bool:
    """Return True if any weight, input or output has this type, or any node rounds to it."""
    types = [value.dtype for value in (*graph.inputs, *graph.outputs)]
    types += [array.dtype for array in graph.constants.values()]
    return half in types or any(_type_attribute(node) == onnx_type(half) for node in graph.nodes)


def _value(value: Value) -> Value:
    return replace(value, dtype=np.dtype(np.float32)) if value.dtype in HALVES.values() else value


def _type_attribute(node: Node) -> int | None:
    """Return the ONNX element type that an attribute of a node requests for its output, or None if no attribute
    does."""
    return None if node.domain else node.attributes.get(TYPE_ATTRIBUTES.get(node.op, ""))


def _node(node: Node) -> Node:
    attributes: Mapping[str, Any] = {name: _attribute(value) for name, value in node.attributes.items()}
    if _type_attribute(node) in HALF_TYPES:
        attributes = {**attributes, TYPE_ATTRIBUTES[node.op]: TensorProto.FLOAT}
    return replace(node, attributes=attributes)


def _attribute(value: Any) -> Any:
    """Convert a 16-bit tensor attribute, such as the value of ConstantOfShape, to float32."""
    if isinstance(value, onnx.TensorProto) and value.data_type in HALF_TYPES:
        return numpy_helper.from_array(numpy_helper.to_array(value).astype(np.float32), value.name)
    return value
