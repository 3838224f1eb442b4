"""Remove operations that return their input unchanged, and merge pairs of Reshapes or Transposes."""

from dataclasses import replace

import numpy as np

from fewstep.graph.graph import Graph, Node, rename_inputs
from fewstep.graph.index import Index, index
from fewstep.graph.pattern import match
from fewstep.graph.types import Types, infer_types

BROADCASTING = ("Add", "Sub", "Mul", "Div")


def drop_identities(graph: Graph) -> Graph:
    """Remove operations that return their input.

    Mul(x, ones)  Add(x, zeros)  Cast(x, its own type)  Reshape(x, its own shape)  Identity(x)      ==>      x
    Where(all True, x, y)  Where(all False, y, x)                                                   ==>      x
    """
    types = infer_types(graph)
    returned = {value.name for value in graph.outputs}
    names: dict[str, str] = {}
    nodes = []
    for node in graph.nodes:
        node = rename_inputs(node, names)
        source = _identity_input(node, graph, types)
        if source is None or node.output in returned:  # a graph output keeps its name, so its node stays
            nodes.append(node)
        else:
            names[node.output] = source
    return graph.with_nodes(nodes)


def drop_expands(graph: Graph) -> Graph:
    """Bypass an Expand if its reader's other operand already has the expanded shape.

        Mul(time, Expand(1, Shape(x)[:1]))      ==>      Mul(time, 1)

    The reader broadcasts the tensor itself. Without the pass, a vector of ones that a network creates with the batch of
    x would make everything after it depend on x.
    """
    idx, types = index(graph), infer_types(graph)

    def broadcast(node: Node) -> Node:
        if node.op not in BROADCASTING or node.domain:
            return node
        shape = types.shape(node.output)
        for position, other in ((0, 1), (1, 0)):
            expand = idx.producer(node.inputs[position], "Expand")
            is_whole = types.shape(node.inputs[other]) == shape
            if expand is not None and shape is not None and is_whole and "?" not in shape:
                inputs = list(node.inputs)
                inputs[position] = expand.inputs[0]
                return replace(node, inputs=tuple(inputs))
        return node

    return graph.with_nodes(map(broadcast, graph.nodes))


def merge_layout(graph: Graph) -> Graph:
    """Merge two consecutive Reshapes or Transposes into one.

    Reshape(Reshape(x, a), b)        ==>      Reshape(x, b)
    Transpose(Transpose(x, p), q)    ==>      Transpose(x, p[q])
    """
    idx = index(graph)
    return graph.with_nodes(_merge_pair(node, graph, idx) for node in graph.nodes)


def _identity_input(node: Node, graph: Graph, types: Types) -> str | None:
    """Return the name of the input that a node returns unchanged, or None if it changes its inputs."""
    if node.domain:
        return None
    source = node.inputs[0] if node.inputs else ""
    before, after = types.values.get(source), types.values.get(node.output)
    if node.op == "Identity" or (node.op == "Dropout" and len(node.inputs) < 3 and len(node.outputs) == 1):
        return source
    if node.op == "Transpose":
        perm = node.attributes.get("perm")
        return source if perm is not None and list(perm) == list(range(len(perm))) else None
    if before is None or after is None:
        return None
    if node.op == "Cast":
        return source if before.dtype == after.dtype else None
    same = before.shape == after.shape and "?" not in after.shape
    if node.op in ("Reshape", "Expand"):
        return source if same else None
    if node.op == "Where":
        return _chosen_input(node, graph, types)
    neutral = {"Mul": 1.0, "Div": 1.0, "Add": 0.0, "Sub": 0.0}.get(node.op)
    if neutral is None:
        return None
    pairs = [node.inputs] if node.op in ("Div", "Sub") else [node.inputs, node.inputs[::-1]]
    for kept, constant in pairs:
        value = types.values.get(kept)
        factor = graph.constants.get(constant)
        if value and value.shape == after.shape and factor is not None and np.all(factor == neutral):
            return kept
    return None


def _chosen_input(where: Node, graph: Graph, types: Types) -> str | None:
    """Return the input that a Where returns unchanged, if its condition is constant and everywhere True or everywhere
    False. None if the Where mixes both inputs, or broadcasts."""
    condition = graph.constants.get(where.inputs[0])
    if condition is None or not (np.all(condition) or not np.any(condition)):
        return None
    kept = where.inputs[1 if np.all(condition) else 2]
    before, after = types.values.get(kept), types.values.get(where.output)
    is_whole = before is not None and after is not None and before.shape == after.shape and "?" not in after.shape
    return kept if is_whole else None


def _merge_pair(node: Node, graph: Graph, idx: Index) -> Node:
    """Return one node in place of two consecutive Reshapes, or Transposes, of which `node` is the second. Any other
    node is returned unchanged."""
    if (turned := match(node, "Transpose(*Transpose(x))", idx)) is not None:
        second, first = (node.attributes.get("perm") for node in turned.nodes)
        if first is None or second is None:
            return node
        return replace(node, inputs=(turned["x"],), attributes={"perm": [first[axis] for axis in second]})
    found = match(node, "Reshape(*Reshape(x, FIRST), SECOND)", idx)
    if found is None:
        return node
    before, after = (graph.constants[found[name]] for name in ("FIRST", "SECOND"))
    if before.size == 0 or after.size == 0:
        return node
    # 0 means "as in the input", so the inner Reshape must keep the leading axis too
    if 0 in after[1:] or (after[0] == 0 and before[0] != 0):
        return node
    return replace(node, inputs=(found["x"], found["SECOND"]))
