"""Read the sizes of a graph with free sizes off x, by operations that shape inference follows."""

from collections.abc import Iterator
from dataclasses import replace

import numpy as np

from fewstep.graph.additions import Additions
from fewstep.graph.graph import Graph, Node, X
from fewstep.graph.index import index
from fewstep.graph.types import Types, infer_types


def read_sizes_off_x(graph: Graph) -> Graph:
    """Take the batch and the sizes from x wherever x has them.

        Shape(time, start=0, end=1)      ==>      Shape(x, start=0, end=1)
        Reshape(n, [-1])                 ==>      Unsqueeze(n, 0)              for a number n

    A Shape of another input would keep its readers out of the prologue, whose rows are no integers.
    """
    port = next((value for value in graph.inputs if value.name == X), None)
    if not graph.extents or port is None:
        return graph
    types, new = infer_types(graph), Additions(graph)
    moving = index(graph).reachable([X])
    axes: dict[int | str, int] = {size: axis for axis, size in enumerate(port.shape) if isinstance(size, str)}
    nodes: list[Node] = []
    for node in graph.nodes:
        if node.op == "Shape" and not node.domain and node.inputs[0] != X:
            nodes.extend(_off_x(node, types, axes, new, node.inputs[0] in moving))
        elif _lengthens_number(node, graph, types):
            nodes.append(replace(node, op="Unsqueeze", inputs=(node.inputs[0], _first(new)), attributes={}))
        else:
            nodes.append(node)
    return graph.with_nodes(nodes, new.constants)


def _off_x(node: Node, types: Types, axes: dict[int | str, int], new: Additions, is_moving: bool) -> Iterator[Node]:
    """The nodes that read the dimensions of another tensor off x. The node stays where x lacks one of them, and where
    the tensor depends on x and several dimensions are read."""
    dims = types.shape(node.inputs[0])
    wanted = None if dims is None else dims[node.attributes.get("start", 0) : node.attributes.get("end", len(dims))]
    are_in_x = wanted is not None and all(isinstance(size, int) or size in axes for size in wanted)
    if wanted is None or not wanted or not are_in_x or (is_moving and len(wanted) > 1):
        yield node
        return
    parts = []
    for size in wanted:
        if isinstance(size, int):
            parts.append(new.constant(f"size_{size}", np.array([size], np.int64)))
            continue
        part = new.name(f"{node.output}_{size}") if len(wanted) > 1 else node.output
        yield Node("Shape", (X,), (part,), {"start": axes[size], "end": axes[size] + 1}, part)
        parts.append(part)
    if len(wanted) > 1:
        yield Node("Concat", tuple(parts), node.outputs, {"axis": 0}, node.name)


def _lengthens_number(node: Node, graph: Graph, types: Types) -> bool:
    """True where a node is a Reshape of a number n to [n]."""
    target = graph.constants.get(node.inputs[1]) if node.op == "Reshape" and not node.domain else None
    return target is not None and target.tolist() in ([-1], [1]) and types.shape(node.inputs[0]) == ()


def _first(new: Additions) -> str:
    return new.constant("axis_0", np.array([0], np.int64))
