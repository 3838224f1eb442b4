"""Replace shape arithmetic by constants, since only the batch may change."""

from dataclasses import replace
from typing import Any

import numpy as np

from fewstep.graph.additions import NewNodes
from fewstep.graph.graph import BATCH, Array, Graph, Node
from fewstep.graph.index import Index, index
from fewstep.graph.pattern import match
from fewstep.graph.types import Types, infer_types


def fold_shapes(graph: Graph) -> Graph:
    """Write shapes as constants, the batch as 0 ("as in the input") or -1 ("what is left").

    Reshape(y, Shape(x))                          ==>      Reshape(y, [0, 64, 28, 28])
    Reshape(y, Concat(Gather(Shape(x), 0), c))    ==>      Reshape(y, [0, 128, 49])
    Reshape(y, Concat(Gather(Shape(x), 0), -1, c)) ==>     Reshape(y, [0, 49, 128])
    Gather(Shape(x), 3)                           ==>      constant 28
    Tile(c [1, 8, 16], Concat(Shape(x)[:1], 1, 1)) ==>     Expand(c, Concat(Shape(x)[:1], 1, 1))
    """
    types, idx, new = infer_types(graph), index(graph), NewNodes(graph)
    nodes: list[Node] = []
    constants: dict[str, Array] = {}
    for node in graph.nodes:
        value = _known_dims(node, graph, idx, types)
        if value is not None:
            constants[node.output] = value
            continue
        if _is_leading_repeat(node, graph, idx, types):
            node = replace(node, op="Expand")
        dims = _target(node, types) or _target_of_batch(node, graph, idx, types)
        if dims is not None:
            node = replace(node, inputs=(node.inputs[0], new.shape(dims)), attributes={})
        nodes.append(node)
    return graph.with_nodes(nodes, constants | new.constants)


def _target(node: Node, types: Types) -> tuple[int, ...] | None:
    """Return the constant for the second input of a Reshape or Expand; None if no constant is equivalent."""
    if node.op not in ("Reshape", "Expand") or node.domain:
        return None
    before, after = types.shape(node.inputs[0]), types.shape(node.output)
    if not before or not after or 0 in before or 0 in after:
        return None
    if node.op == "Expand":  # a dimension of 1 in the target keeps the input's size
        shared = range(min(len(before), len(after)), 0, -1)
        kept = [1 if before[-k] == after[-k] != "?" else after[-k] for k in shared]
        dims = [*after[: len(after) - len(kept)], *kept]
        return None if any(isinstance(dim, str) for dim in dims) else tuple(map(int, dims))
    inner = after[1:] if isinstance(after[0], str) else after
    if any(isinstance(dim, str) for dim in inner):
        return None
    fixed = tuple(map(int, inner))
    if len(fixed) == len(after):
        return fixed
    same = isinstance(before[0], str) and not any(isinstance(dim, str) for dim in before[1:])
    keeps_batch = same and np.prod([int(dim) for dim in before[1:]]) == np.prod(fixed)
    return (0 if keeps_batch else -1, *fixed)


def _target_of_batch(node: Node, graph: Graph, idx: Index, types: Types) -> tuple[int, ...] | None:
    """Return the shape to which a Reshape converts its input, if it keeps the batch axis and infers one dimension (-1).
    Shape inference does not find it. None for any other node."""
    concat = idx.producer(node.inputs[1], "Concat") if node.op == "Reshape" and not node.domain else None
    before = types.shape(node.inputs[0])
    if concat is None or not before or not _is_batch(concat.inputs[0], graph, idx, types):
        return None
    rest = [graph.constants.get(name) for name in concat.inputs[1:]]
    inner = [dim for dim in before[1:] if not isinstance(dim, str)]
    if before[0] != BATCH or len(inner) < len(before) - 1 or any(part is None for part in rest):
        return None
    dims = [int(dim) for part in rest if part is not None for dim in part.reshape(-1)]
    others = int(np.prod([dim for dim in dims if dim != -1], dtype=np.int64))
    if 0 in dims or dims.count(-1) != 1 or np.prod(inner) % others:
        return None
    return (0, *(int(np.prod(inner)) // others if dim == -1 else dim for dim in dims))


def _is_leading_repeat(node: Node, graph: Graph, idx: Index, types: Types) -> bool:
    """Return True if a Tile repeats only the leading axis, and that axis has size 1."""
    concat = idx.producer(node.inputs[1], "Concat") if node.op == "Tile" and not node.domain else None
    if concat is None or (types.shape(node.inputs[0]) or ())[:1] != (1,) or types.shape(concat.inputs[0]) != (1,):
        return False
    rest = [graph.constants.get(name) for name in concat.inputs[1:]]
    return all(part is not None and bool((part == 1).all()) for part in rest)


def _is_batch(name: str, graph: Graph, idx: Index, types: Types) -> bool:
    """Return True if a tensor is [batch], read from the shape of another tensor."""
    found = match(idx.producers.get(name), "Unsqueeze(Gather(Shape(x), PLACE))", idx)
    if found is None:
        return False
    dims, place = types.shape_op_value(found.nodes[2]) or (), graph.constants[found["PLACE"]]
    return dims[:1] == (BATCH,) and place.shape == () and int(place) == 0


def _known_dims(node: Node, graph: Graph, idx: Index, types: Types) -> Array | None:
    """Return the values of Shape(x), or of the part of it that a Gather or Slice selects, if they are constants.
    Otherwise return None."""
    if node.op == "Shape" and not node.domain:
        dims = types.shape_op_value(node)
        return None if dims is None or any(isinstance(dim, str) for dim in dims) else np.asarray(dims, np.int64)
    if node.op not in ("Gather", "Slice") or not all(graph.is_constant(name) for name in node.inputs[1:]):
        return None
    shape = idx.producer(node.inputs[0], "Shape")
    dims = types.shape_op_value(shape) if shape else None
    if dims is None:
        return None
    which: Any = graph.constants[node.inputs[1]]
    if node.op == "Slice":
        start, end, *axis_and_step = (int(graph.constants[name].reshape(())) for name in node.inputs[1:])
        which = slice(start, end, *axis_and_step[1:])
    taken = np.asarray(np.asarray(dims, object)[which], object)
    return None if any(isinstance(dim, str) for dim in taken.reshape(-1)) else taken.astype(np.int64)
