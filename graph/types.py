"""Element types and shapes of every tensor of a graph, by ONNX's inference, with the batch as a symbol.

ONNX's inference loses free axes other than the batch at the first convolution. So inference is run with several choices
of numbers for the free sizes, and the results show how each dimension depends on them.
"""

from collections.abc import Mapping
from dataclasses import dataclass, replace

import numpy as np
import onnx
from onnx import helper

from fewstep.graph.extents import dimension_name, fix_batch, fix_sizes, probe_sizes
from fewstep.graph.files.io import to_model
from fewstep.graph.graph import BATCH, Graph, Node, Value

LARGEST_SCALE = 64  # scale of a Resize that `_stand_ins` replaces
BATCHES = 1009, 2003  # primes, unlike any other size
KEEP_BELOW = 1024  # elements; of larger constants only the shape matters, so their values stay out of the inference


@dataclass(frozen=True)
class Types:
    """The dtypes and shapes of one graph's tensors, by name. A dimension is a number, a symbol such as "batch", or "?"
    if it is unknown.

    `usual` has the same types with the default sizes in place of symbols.
    """

    values: Mapping[str, Value]
    usual: Mapping[str, Value]

    def shape(self, name: str) -> tuple[int | str, ...] | None:
        value = self.values.get(name)
        return value.shape if value else None

    def static(self, name: str) -> tuple[int, ...] | None:
        """Return the shape of a tensor if all its dimensions are numbers, otherwise None."""
        shape = self.shape(name)
        return None if shape is None or any(isinstance(dim, str) for dim in shape) else tuple(map(int, shape))

    def rank(self, name: str) -> int | None:
        shape = self.shape(name)
        return None if shape is None else len(shape)

    def shape_op_value(self, shape: Node) -> tuple[int | str, ...] | None:
        """Return the dimensions that a Shape returns, with a name for each free one; None if they are unknown."""
        dims = self.shape(shape.inputs[0])
        return None if dims is None else dims[shape.attributes.get("start", 0) : shape.attributes.get("end", len(dims))]

    def sample_bytes(self, name: str) -> int | None:
        """Return the size in bytes of one sample of a tensor, at the default sizes. None if a dimension other than the
        batch is unknown."""
        value = self.usual.get(name)
        if value is None:
            return None
        sizes = [1 if axis == 0 and isinstance(dim, str) else dim for axis, dim in enumerate(value.shape)]
        if any(isinstance(dim, str) for dim in sizes):
            return None
        return int(np.prod([int(dim) for dim in sizes], dtype=np.int64)) * value.dtype.itemsize


def infer_types(graph: Graph) -> Types:
    """Return the dtypes and shapes of all tensors for which ONNX's shape inference finds them."""
    if not graph.extents:
        inferred = _infer_free_batch(graph)
        return Types(inferred, inferred)
    points = probe_sizes(graph.extents)
    seen = [_infer_free_batch(fix_sizes(graph, point)) for point in points]
    values = {}
    for name, value in seen[0].items():
        shapes = [types[name].shape if name in types else () for types in seen]
        if all(len(shape) == len(value.shape) for shape in shapes):
            dims = tuple(
                dimension_name(tuple(map(_hide_made_up, sizes)), points) for sizes in zip(*shapes, strict=True)
            )
            values[name] = replace(value, shape=dims)
    return Types(values, seen[0])


def _infer_free_batch(graph: Graph) -> dict[str, Value]:
    """Return the dtypes and shapes in a graph whose only free size is the batch.

    If the batch moves to another axis, ONNX's shape inference invents a symbol for it. Inference at two batch sizes
    then shows which expression of the batch the symbol stands for.
    """
    values = _infer_once(graph)
    lost = [name for name, value in values.items() if any(_is_made_up(size) for size in value.shape)]
    if not lost or not any(value.shape[:1] == (BATCH,) for value in graph.inputs):
        return values
    few, many = (_infer_once(fix_batch(graph, batch)) for batch in BATCHES)
    for name in lost:
        shape = values[name].shape
        if name in few and name in many and len(few[name].shape) == len(many[name].shape) == len(shape):
            sizes = zip(shape, few[name].shape, many[name].shape, strict=True)
            values[name] = replace(values[name], shape=tuple(_merge_batches(*size) for size in sizes))
    return values


def _merge_batches(size: int | str, few: int | str, many: int | str) -> int | str:
    """Return the dimension whose values are `few` and `many` at the two `BATCHES`: the batch, a number, or its original
    name `size`."""
    if (few, many) == BATCHES:
        return BATCH
    return few if few == many and isinstance(few, int) else size


def _is_made_up(size: int | str) -> bool:
    """Return True if a dimension is a symbol that inference invented."""
    return isinstance(size, str) and BATCH not in size


def _infer_once(graph: Graph) -> dict[str, Value]:
    """Return the dtypes and shapes of tensors, by name, that one run of ONNX's shape inference finds."""
    large = {name: array for name, array in graph.constants.items() if array.size >= KEEP_BELOW}
    small = {name: array for name, array in graph.constants.items() if name not in large}
    given = tuple(Value(name, array.dtype, array.shape) for name, array in large.items())
    given += tuple(replace(value, shape=tuple(map(_probe_size, value.shape))) for value in graph.optional)
    nodes = tuple(stand_in for node in graph.nodes for stand_in in _stand_ins(node, graph))
    skeleton = to_model(Graph(graph.name, graph.inputs + given, graph.outputs, nodes, small))
    inferred = onnx.shape_inference.infer_shapes(skeleton, data_prop=True).graph
    values = {name: Value(name, array.dtype, array.shape) for name, array in graph.constants.items()}
    for info in (*inferred.input, *inferred.value_info, *inferred.output):
        tensor = info.type.tensor_type
        if tensor.elem_type and tensor.HasField("shape"):
            values[info.name] = Value(
                info.name, helper.tensor_dtype_to_np_dtype(tensor.elem_type), tuple(map(_dim, tensor.shape.dim))
            )
    return values


def _probe_size(size: int | str) -> int:
    """Return the size to assume for a dimension of an optional input while shapes are inferred: 1 for a free dimension
    (such as the rank of a LoRA), which is usually small."""
    return 1 if isinstance(size, str) else size


def _hide_made_up(size: int | str) -> int | str:
    """Return "?" for a symbol that shape inference made up, since it means nothing at other sizes."""
    return "?" if _is_made_up(size) else size


def _stand_ins(node: Node, graph: Graph) -> tuple[Node, ...]:
    """Return the nodes that replace a node during shape inference. A Resize by integer factors is replaced by Concats
    that return the same shape.

    Shape inference gives all dimensions of a Resize new names, so the batch would not be recognized after it.
    """
    scales = graph.constants.get(node.inputs[2]) if node.op == "Resize" and len(node.inputs) == 3 else None
    if scales is None or "axes" in node.attributes or not np.isin(scales, range(1, LARGEST_SCALE + 1)).all():
        return (node,)
    source, nodes = node.inputs[0], []
    for axis, scale in enumerate(scales.astype(int)):
        nodes.append(Node("Concat", (source,) * scale, (f"{node.output}_axis_{axis}",), {"axis": axis}))
        source = nodes[-1].output
    return (*nodes, Node("Identity", (source,), node.outputs))


def _dim(dim: onnx.TensorShapeProto.Dimension) -> int | str:
    return dim.dim_value if dim.HasField("dim_value") else dim.dim_param or "?"
