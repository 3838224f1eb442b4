"""ONNX models in third-party style, in ONNX's own text format."""

from typing import Any

import numpy as np
import onnx
from onnx import helper, numpy_helper

from fewstep.graph.graph import Graph, Node, Value
from tests.bundles import small


def parse_graph(text: str, opset: int = 20, **constants: Any) -> onnx.ModelProto:
    """Return the model of a graph such as "net (float[n, 2] x) => (float[n, 2] y) { y = Add(x, bias) }", with these
    initializers.
    """
    model = onnx.parser.parse_model(f'<ir_version: 8, opset_import: ["": {opset}]> {text}')
    arrays = {name: np.asarray(array) for name, array in constants.items()}
    model.graph.initializer.extend(numpy_helper.from_array(array, name) for name, array in arrays.items())
    return model


def graph_of_text(text: str, **constants: Any) -> Graph:
    """Return the graph of a text without a name, "(float[batch, 2] x) => (float[batch, 2] y) { y = Add(x, bias) }",
    with constants as in `small`. "?" is a size without a name.
    """
    made = parse_graph(f"g {text}").graph
    nodes = [
        Node(node.op_type, tuple(node.input), tuple(node.output), _attributes(node), node.output[0], node.domain)
        for node in made.node
    ]
    return small([*map(_value, made.input)], [*map(_value, made.output)], nodes, **constants)


def _attributes(node: onnx.NodeProto) -> dict[str, Any]:
    return {attribute.name: helper.get_attribute_value(attribute) for attribute in node.attribute}


def _value(info: onnx.ValueInfoProto) -> Value:
    tensor = info.type.tensor_type
    sizes = (size.dim_value if size.HasField("dim_value") else size.dim_param or "?" for size in tensor.shape.dim)
    return Value(info.name, helper.tensor_dtype_to_np_dtype(tensor.elem_type), tuple(sizes))
