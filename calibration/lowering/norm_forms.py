"""Layer norms of a lowered graph in forms that onnxruntime's CPU kernels compute fast.

    LayerNormalization(x, a, b) * m    ==>    LayerNormalization(x, a m, b m)
    LayerNormalization(x + y, ...)     ==>    LayerNormalization(Sum(x, y), ...)

m are the multipliers of channels (`channels.py`). onnxruntime joins a sum that a layer norm alone reads with it, as
SkipLayerNormalization; that kernel takes 4 times as long as the two. It knows the sum by Add, and Sum has the same
bits. onnxruntime 1.31 on AVX512, one thread, loaded: a step of `action_tokens` takes 0.92 of the time in int8.
"""

from collections.abc import Mapping
from dataclasses import replace

from fewstep.calibration.lowering.encoding import Encoding
from fewstep.graph.additions import Additions
from fewstep.graph.graph import Graph, Node
from fewstep.graph.index import index
from fewstep.graph.types import Types

NORM = "LayerNormalization"


def norm_forms(graph: Graph, types: Types, encodings: Mapping[str, Encoding]) -> Graph:
    """The lowered graph in these forms; `types` and `encodings` are not read."""
    idx, new, changes = index(graph), Additions(graph), dict[str, tuple[Node, ...]]()
    for node in graph.nodes:
        readers = idx.consumers.get(node.output, ())
        if len(readers) != 1 or not idx.is_inner(node.output):
            continue
        (reader,) = readers
        if node.op == "Add" and not node.domain and reader.op == NORM and not any(map(graph.is_constant, node.inputs)):
            changes[node.output] = (replace(node, op="Sum"),)
        factor = reader.inputs[1] if reader.op == "Mul" and reader.inputs[0] == node.output else ""
        names = [name for name in node.inputs[1:] if name]
        if node.op == NORM and len(node.outputs) == 1 and all(map(graph.is_constant, (factor, *names))):
            m = graph.constants[factor]
            if graph.constants[names[0]].shape == m.shape:  # along the axes of the norm: a convolution's are not
                own = [new.constant(f"{name}({reader.output})", graph.constants[name] * m) for name in names]
                joined = replace(node, inputs=(node.inputs[0], *own), outputs=reader.outputs)
                changes |= {node.output: (), reader.output: (joined,)}
    nodes = (each for node in graph.nodes for each in changes.get(node.output, (node,)))
    return graph.with_nodes(nodes, new.constants)
