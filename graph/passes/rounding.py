"""Round a float32 graph as float16 would, to show the loss on engines without float16 kernels."""

from dataclasses import replace

import numpy as np
from onnx import TensorProto

from fewstep.graph.graph import Array, Graph, Node
from fewstep.graph.passes.float16 import LARGEST, rounded, takes_half
from fewstep.graph.types import infer_types
from fewstep.graph.weights import place_of

SMALL = 4096  # bytes: larger weights are rounded while the graph runs, so that they are not in memory twice


def round_to_float16(graph: Graph) -> Graph:
    """Round every input, weight and result to float16, and compute in float32 between.

        f(x, W)      ==>      r(f(r(x), r(W)))  with  r(x) = Cast(Cast(x, float16), float32)

    ONNX Runtime's CPU provider computes a float16 graph in float32, and rounds some tensors only. A tensor that
    overflows in an engine would then stay finite. Sums inside an operation are float32, as in engines. Weights that are
    mapped from files, as in large networks, are not rounded: onnxruntime would hold a rounded copy of each.
    """
    types, inputs = infer_types(graph), {value.name for value in graph.inputs if value.dtype == np.float32}
    names, constants = {name: f"rounded({name})" for name in inputs}, dict[str, Array]()
    nodes = [step for name in inputs for step in _rounding(name, names[name])]
    for node in graph.nodes:
        read = list(node.inputs)
        for position, name in enumerate(read):
            weight = graph.constants.get(name)
            if weight is not None and place_of(weight) is not None:
                continue
            if weight is not None and weight.dtype == np.float32 and takes_half(node, position):
                if name not in names:
                    names[name] = f"rounded({name})"
                    if weight.nbytes < SMALL or float(np.max(np.abs(weight))) > LARGEST:
                        constants[names[name]] = rounded(weight).astype(np.float32)
                    else:
                        nodes.extend(_rounding(name, names[name]))
                read[position] = names[name]
            elif name in inputs:
                read[position] = names[name]
        rough = {name: f"exact({name})" for name in node.outputs if name and _is_float(types.values.get(name))}
        nodes.append(replace(node, inputs=tuple(read), outputs=tuple(rough.get(name, name) for name in node.outputs)))
        nodes.extend(step for name, exact in rough.items() for step in _rounding(exact, name))
    return graph.with_nodes(nodes, constants)


def _is_float(value: object) -> bool:
    return getattr(value, "dtype", None) == np.float32


def _rounding(name: str, result: str) -> tuple[Node, Node]:
    half = f"float16({result})"
    return (
        Node("Cast", (name,), (half,), {"to": TensorProto.FLOAT16}, name=half),
        Node("Cast", (half,), (result,), {"to": TensorProto.FLOAT}, name=result),
    )
