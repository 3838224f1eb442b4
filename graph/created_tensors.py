"""Float tensors that a graph creates from sizes and attributes only, such as positions and coordinates.

They do not depend on the value of any input, and must not be rounded to 16 bits: float16 represents all integers only
up to 2048, and bfloat16 up to 256.
"""

from collections.abc import Mapping, Sequence

import onnx
from onnx import TensorProto, helper

from fewstep.graph.graph import OPSET, Graph, Node
from fewstep.graph.half_types import onnx_type
from fewstep.graph.selection import LEAST_CHANNELS, SIZES, match_weighted_op

FLOAT16, BFLOAT16 = int(TensorProto.FLOAT16), int(TensorProto.BFLOAT16)
AS_A_CONSTANT = frozenset({"Constant", "ConstantOfShape"})  # a single number, rounded to 16 bits like a weight


def tensors_without_inputs(graph: Graph) -> frozenset[str]:
    """Return the float32 tensors computed only from sizes, attributes and constants. A chain of such tensors starts at
    the operation that creates the first float: Range, EyeLike, a window, random numbers, or a Cast of integers.

    The chain ends at the graph's outputs, and at an operation with a weight that may run in int8.
    """
    varying = {value.name for value in (*graph.inputs, *graph.optional)}
    types = tensor_types(graph)
    outputs = {value.name for value in graph.outputs}
    created: set[str] = set()
    for node in graph.nodes:
        types.update(zip(node.outputs, result_types(node, types), strict=True))
        if node.op not in SIZES and not varying.isdisjoint(node.inputs):
            varying.update(node.outputs)
            continue
        is_source = node.op not in AS_A_CONSTANT and all(types.get(n) != TensorProto.FLOAT for n in node.inputs)
        if (is_source or not created.isdisjoint(node.inputs)) and not _is_int8_candidate(node, graph):
            created.update(n for n in node.outputs if types[n] == TensorProto.FLOAT and n not in outputs)
    return frozenset(created)


def tensor_types(graph: Graph) -> dict[str, int | None]:
    """Return the ONNX element type (an integer of TensorProto.DataType) of each input and constant."""
    types: dict[str, int | None] = {name: onnx_type(array.dtype) for name, array in graph.constants.items()}
    return types | {value.name: onnx_type(value.dtype) for value in (*graph.inputs, *graph.optional)}


def result_types(node: Node, types: Mapping[str, int | None]) -> Sequence[int | None]:
    """Return the element type of each output of a node, as ONNX numbers, from the types of its inputs.

    The type is None for outputs that are not tensors. If ONNX does not define the operation or its output type, the
    type is that of the first typed input.
    """
    first = next((types[name] for name in node.inputs if types.get(name) is not None), None)
    try:
        schema = onnx.defs.get_schema(node.op, OPSET, node.domain)
    except onnx.defs.SchemaError:
        return [first] * len(node.outputs)
    formal = [schema.inputs[min(place, len(schema.inputs) - 1)].type_str for place in range(len(node.inputs))]
    known = {text: types.get(name) for text, name in zip(formal, node.inputs, strict=True) if name}
    last = len(schema.outputs) - 1
    texts = [schema.outputs[min(place, last)].type_str for place in range(len(node.outputs))]
    if all(text in known for text in texts):
        return [known[text] for text in texts]
    found = _infer(node, schema, types)
    return [known[text] if text in known else found.get(name, first) for text, name in zip(texts, node.outputs)]


def _infer(node: Node, schema: onnx.defs.OpSchema, types: Mapping[str, int | None]) -> dict[str, int | None]:
    """Return the element types that ONNX infers for a node's outputs from its inputs and attributes. The result is
    empty if the type of an input is unknown.

    Opset 20 defines bfloat16 for fewer operations than float16, so inference uses float16 in place of bfloat16.
    """
    read = {name: known for name in node.inputs if (known := types.get(name))}
    if any(name and name not in read for name in node.inputs):
        return {}
    has_bfloat16 = BFLOAT16 in read.values()
    given = {
        name: helper.make_tensor_type_proto(FLOAT16 if known == BFLOAT16 else known, None)
        for name, known in read.items()
    }
    plain = {name: value for name, value in node.attributes.items() if not isinstance(value, Graph)}
    proto = helper.make_node(node.op, node.inputs, node.outputs, domain=node.domain, **plain)
    imports = [helper.make_opsetid(node.domain, OPSET)]
    made = onnx.shape_inference.infer_node_outputs(schema, proto, given, opset_imports=imports)
    found = {name: each.tensor_type.elem_type or None for name, each in made.items()}
    return {name: BFLOAT16 if has_bfloat16 and known == FLOAT16 else known for name, known in found.items()}


def _is_int8_candidate(node: Node, graph: Graph) -> bool:
    op = match_weighted_op(node, graph)
    return op is not None and min(op.channels_in, op.channels_out) >= LEAST_CHANNELS
