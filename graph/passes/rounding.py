"""Simulate a 16-bit float type in a float32 graph, to measure its loss on machines that have no kernels for it."""

from dataclasses import replace
from typing import Any

import numpy as np
from onnx import TensorProto

from fewstep.graph.created_tensors import tensors_without_inputs
from fewstep.graph.files.weights import place_of
from fewstep.graph.graph import Array, Graph, Node
from fewstep.graph.half_types import BFLOAT16, largest_number, onnx_type
from fewstep.graph.passes.float32 import has_type, to_float32
from fewstep.graph.passes.half import round_weight, takes_half
from fewstep.graph.squared_sums import inner_tensors, limit_norms, sums_of_squares
from fewstep.graph.types import infer_types

SMALL = 4096  # bytes: larger weights are rounded at run time, so that memory does not hold them twice


def make_runnable(graph: Graph) -> Graph:
    """Return a graph that onnxruntime's CPU can run. A bfloat16 graph, for which it has no kernels, is simulated in
    float32."""
    return round_to(to_float32(graph), BFLOAT16) if has_type(graph, BFLOAT16) else graph


def round_to(graph: Graph, half: np.dtype[Any]) -> Graph:
    """Round every input, weight and result to a 16-bit float type, and compute in float32 between.

        f(x, W)      ==>      r(f(r(x), r(W)))  with  r(x) = Cast(Cast(x, half), float32)

    ONNX Runtime's CPU provider computes a float16 graph in float32, and rounds only some tensors. A tensor that
    overflows in an engine would then stay finite. Sums inside an operation are float32, as in engines. So are sums of
    squares (`sums_of_squares`), created tensors (`tensors_without_inputs`) that other created tensors read, and the
    results of DequantizeLinear, since engines multiply its integers. Weights mapped from files, as in large networks,
    are not rounded: onnxruntime would hold a rounded copy of each.
    """
    graph = limit_norms(graph, half)
    types, inputs = infer_types(graph), {value.name for value in graph.inputs if value.dtype == np.float32}
    names, constants = {name: f"rounded({name})" for name in inputs}, dict[str, Array]()
    nodes = [step for name in inputs for step in _rounding(name, names[name], half)]
    sums = sums_of_squares(graph)
    inner = inner_tensors(graph, sums)
    created = tensors_without_inputs(graph) - sums
    floats = {name for name, value in types.values.items() if value.dtype == np.float32}
    for node in graph.nodes:
        read, is_created = list(node.inputs), not created.isdisjoint(node.outputs)
        for position, name in enumerate(read):
            weight = graph.constants.get(name)
            if weight is not None and place_of(weight) is not None:
                continue
            is_rounded = not is_created and node.outputs[0] not in sums and takes_half(node, position)
            if weight is not None and weight.dtype == np.float32 and is_rounded:
                if name not in names:
                    names[name] = f"rounded({name})"
                    if weight.nbytes < SMALL or float(np.max(np.abs(weight))) > largest_number(half):
                        constants[names[name]] = round_weight(weight, half).astype(np.float32)
                    else:
                        nodes.extend(_rounding(name, names[name], half))
                read[position] = names[name]
            elif name in inputs:
                read[position] = names[name]
            elif name in created and is_rounded:
                if name not in names:
                    names[name] = f"rounded({name})"
                    nodes.extend(_rounding(name, names[name], half))
                read[position] = names[name]
        exempt = inner | created
        made = () if node.op == "DequantizeLinear" else [name for name in node.outputs if name not in exempt]
        exact = {name: f"exact({name})" for name in made if name in floats}
        nodes.append(replace(node, inputs=tuple(read), outputs=tuple(exact.get(name, name) for name in node.outputs)))
        nodes.extend(step for name, source in exact.items() for step in _rounding(source, name, half))
    return graph.with_nodes(nodes, constants)


def _rounding(name: str, result: str, half: np.dtype[Any]) -> tuple[Node, Node]:
    """Return two nodes that round a float32 tensor to a 16-bit type and back; `result` is the name of their output."""
    inner = f"round({result})"
    return (
        Node("Cast", (name,), (inner,), {"to": onnx_type(half)}, name=inner),
        Node("Cast", (inner,), (result,), {"to": TensorProto.FLOAT}, name=result),
    )
