"""Fusion of layer norms in a lowered graph into forms that onnxruntime's CPU kernels compute fast.

    LayerNormalization(x, a, b) * m    ==>    LayerNormalization(x, a m, b m)
    LayerNormalization(x + y, ...)     ==>    LayerNormalization(Sum(x, y), ...)

m are the multipliers of channels (`channel_equalization.py`). If only a layer norm reads a sum, onnxruntime fuses both
into SkipLayerNormalization, which takes 4 times as long as the two. It matches only Add; Sum is bitwise identical.
Measured in onnxruntime 1.31 on a busy machine with AVX512 and one thread: an int8 step of `action_tokens` takes 0.92 of
the time.
"""

from collections.abc import Mapping
from dataclasses import replace

from fewstep.calibration.lowering.encoding import Encoding
from fewstep.graph.additions import NewNodes
from fewstep.graph.graph import Graph, Node
from fewstep.graph.index import index
from fewstep.graph.pattern import match
from fewstep.graph.types import Types

NORM = "LayerNormalization"


def fuse_norms(graph: Graph, types: Types, encodings: Mapping[str, Encoding]) -> Graph:
    """Return the lowered graph with the sum before a normalization written as Sum instead of Add, and with a constant
    factor after a normalization folded into its scale and bias. Nodes that are no longer read stay in the graph."""
    idx, new, changes = index(graph), NewNodes(graph), dict[str, Node]()
    for node in graph.nodes:
        total = match(node, f"{NORM}(*Add(x, y))", idx)
        if total is not None and not any(map(graph.is_constant, total.tensors.values())):
            changes[total.nodes[1].output] = replace(total.nodes[1], op="Sum")
        scaled = match(node, f"Mul(*{NORM}(x, SCALE), FACTOR)", idx)
        norm = node if scaled is None else scaled.nodes[1]
        names = [name for name in norm.inputs[1:] if name]
        if scaled is not None and len(norm.outputs) == 1 and all(map(graph.is_constant, names)):
            m = graph.constants[scaled["FACTOR"]]
            if graph.constants[names[0]].shape == m.shape:  # those of a convolution are along another axis
                terms = [new.constant(f"{name}({node.output})", graph.constants[name] * m) for name in names]
                joined = replace(norm, inputs=(scaled["x"], *terms), outputs=node.outputs)
                changes[node.output] = joined
    return graph.with_nodes([changes.get(node.output, node) for node in graph.nodes], new.constants)
