"""Write 8-bit quantization scales in float32, for a builder that refuses them in float16 or bfloat16."""

from dataclasses import replace

import numpy as np
from onnx import TensorProto

from fewstep.graph.graph import Array, Graph, Node
from fewstep.graph.half_types import HALVES, onnx_type
from fewstep.graph.passes.constants import drop_unused
from fewstep.graph.passes.half import make_cast

ROUNDINGS = frozenset({"QuantizeLinear", "DequantizeLinear"})


def float32_scales(graph: Graph) -> Graph:
    """Let QuantizeLinear and DequantizeLinear compute in float32, between casts. All other operations keep their type,
    and every inner tensor keeps its name.

        Q(x, s)      ==>      Q(Cast(x), float32(s))
        D(q, s)      ==>      Cast(D(q, float32(s)))

    Every 16-bit number is a float32 number, so the scales are the same. The Cast after DequantizeLinear rounds its
    product to 16 bits.
    """
    constants: dict[str, Array] = {}
    nodes: dict[str, Node] = {}  # by the output, since two roundings may read one activation
    for node in graph.nodes:
        scale = graph.constants.get(node.inputs[1]) if node.op in ROUNDINGS else None
        if scale is None or scale.dtype not in HALVES.values():
            nodes[node.outputs[0]] = node
            continue
        source, name, *rest = node.inputs
        constants[_float32_name(name)] = scale.astype(np.float32)
        if node.op == "QuantizeLinear":
            nodes[_float32_name(source)] = make_cast(source, _float32_name(source), TensorProto.FLOAT)
            nodes[node.output] = replace(node, inputs=(_float32_name(source), _float32_name(name), *rest))
        else:
            result = _float32_name(node.output)
            nodes[result] = replace(node, inputs=(source, _float32_name(name), *rest), outputs=(result,))
            nodes[node.output] = make_cast(result, node.output, onnx_type(scale.dtype))
    return drop_unused(graph.with_nodes(nodes.values(), constants))


def _float32_name(name: str) -> str:
    return f"float32({name})"
