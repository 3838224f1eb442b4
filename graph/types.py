"""Element types and shapes of every tensor of a graph, by ONNX's own inference, with the batch as a symbol."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import onnx
from onnx import helper

from fewstep.graph.graph import Graph, Node, Value
from fewstep.graph.io import to_model

LARGEST_SCALE = 64  # of a Resize that inference is helped with
KEEP_BELOW = 1024  # elements: larger constants matter for their shape only and stay out of the inference


@dataclass(frozen=True)
class Types:
    """What is known about the tensors of one graph. A dimension is a number, a symbol such as "batch", or "?"."""

    values: Mapping[str, Value]

    def shape(self, name: str) -> tuple[int | str, ...] | None:
        value = self.values.get(name)
        return value.shape if value else None

    def static(self, name: str) -> tuple[int, ...] | None:
        """The shape, if all its dimensions are numbers."""
        shape = self.shape(name)
        return None if shape is None or any(isinstance(dim, str) for dim in shape) else tuple(map(int, shape))

    def rank(self, name: str) -> int | None:
        shape = self.shape(name)
        return None if shape is None else len(shape)

    def sample_bytes(self, name: str) -> int | None:
        """Bytes of one sample of a tensor whose only unknown dimension is the batch."""
        value = self.values.get(name)
        if value is None:
            return None
        sizes = [1 if axis == 0 and isinstance(dim, str) else dim for axis, dim in enumerate(value.shape)]
        if any(isinstance(dim, str) for dim in sizes):
            return None
        return int(np.prod([int(dim) for dim in sizes], dtype=np.int64)) * value.dtype.itemsize


def infer_types(graph: Graph) -> Types:
    """Types of all tensors that inference can tell."""
    large = {name: array for name, array in graph.constants.items() if array.size >= KEEP_BELOW}
    small = {name: array for name, array in graph.constants.items() if name not in large}
    given = tuple(Value(name, array.dtype, array.shape) for name, array in large.items())
    nodes = tuple(stand_in for node in graph.nodes for stand_in in _stand_ins(node, graph))
    skeleton = to_model(Graph(graph.name, graph.inputs + given, graph.outputs, nodes, small))
    inferred = onnx.shape_inference.infer_shapes(skeleton, data_prop=True).graph
    values = {name: Value(name, array.dtype, array.shape) for name, array in graph.constants.items()}
    for info in (*inferred.input, *inferred.value_info, *inferred.output):
        tensor = info.type.tensor_type
        if tensor.elem_type and tensor.HasField("shape"):
            values[info.name] = Value(info.name, _dtype(tensor.elem_type), tuple(map(_dim, tensor.shape.dim)))
    return Types(values)


def _stand_ins(node: Node, graph: Graph) -> tuple[Node, ...]:
    """What inference sees in place of a node: for a Resize by integers, Concats of the same shape.

    Of a Resize inference takes every dimension for new, so that the batch behind it would no longer be the batch.
    """
    scales = graph.constants.get(node.inputs[2]) if node.op == "Resize" and len(node.inputs) == 3 else None
    if scales is None or "axes" in node.attributes or not np.isin(scales, range(1, LARGEST_SCALE + 1)).all():
        return (node,)
    source, nodes = node.inputs[0], []
    for axis, scale in enumerate(scales.astype(int)):
        nodes.append(Node("Concat", (source,) * scale, (f"{node.output}_axis_{axis}",), {"axis": axis}))
        source = nodes[-1].output
    return (*nodes, Node("Identity", (source,), node.outputs))


def _dtype(elem_type: int) -> np.dtype[Any]:
    return helper.tensor_dtype_to_np_dtype(elem_type)


def _dim(dim: onnx.TensorShapeProto.Dimension) -> int | str:
    return dim.dim_value if dim.HasField("dim_value") else dim.dim_param or "?"
