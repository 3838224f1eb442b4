"""As before `graph/passes/concat.py`: one operation for all sources of a Concat again, with one scale."""

from dataclasses import replace

import numpy as np

from fewstep.graph.graph import Array, Graph, Node, rename_inputs
from fewstep.graph.index import Index, in_topological_order, index
from fewstep.graph.passes.constants import drop_unused


def join_concat(graph: Graph) -> Graph:
    """Operations on the sources of a Concat that are summed become one on the Concat.

        Conv(a, W_0) + bias + Conv(b, W_1)    ==>    Conv(Concat(a, b), W) + bias

    They are known by the names of their weights, which a number ends. A Concat of the sources must be there, as it is
    where a normalisation reads it too.
    """
    idx = index(graph)
    joined: dict[str, Node] = {}  # by the name that the first part's result had
    constants: dict[str, Array] = {}
    gone: set[str] = set()
    for concat in (node for node in graph.nodes if node.op == "Concat"):
        parts = _parts(concat, idx)
        if not parts:
            continue
        first, stem = parts[0], parts[0].inputs[1].removesuffix("_0")
        axis = 1 if first.op == "Conv" else 0
        constants[stem] = np.concatenate([graph.constants[part.inputs[1]] for part in parts], axis)
        joined[first.output] = replace(first, inputs=(concat.output, stem, *first.inputs[2:]))
        gone.update(part.output for part in parts[1:])
    names: dict[str, str] = {}  # a sum with a part that is gone -> what else was in it
    nodes = []
    for node in graph.nodes:
        left = [name for name in node.inputs if name not in gone]
        if node.op == "Add" and len(left) == 1:
            names[node.output] = names.get(left[0], left[0])
        elif node.output not in gone:
            nodes.append(joined.get(node.output, node))
    known = [*graph.constants, *constants, *(value.name for value in graph.inputs)]
    ordered = in_topological_order([rename_inputs(node, names) for node in nodes], known)
    return drop_unused(graph.with_nodes(ordered, constants))


def _parts(concat: Node, idx: Index) -> list[Node]:
    """One operation for each source, the weights of one that was split; none if there are none."""
    readers = [idx.consumers[source] for source in concat.inputs]
    for first in readers[0]:
        stem = first.inputs[1].removesuffix("_0") if first.op in ("Conv", "MatMul") else ""
        parts = [
            node
            for number, nodes in enumerate(readers)
            for node in nodes
            if node.op == first.op and stem and node.inputs[1] == f"{stem}_{number}"
        ]
        summed = all(idx.is_inner(part.output) and idx.consumers[part.output][0].op == "Add" for part in parts)
        if len(parts) == len(concat.inputs) and summed:
            return parts
    return []
