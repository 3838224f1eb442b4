"""Find GroupNorms as exporters write them, with the neighbouring operations that the GroupNorm kernel of com.microsoft
includes."""

from dataclasses import dataclass

import numpy as np

from fewstep.graph.graph import Array, Graph, Node
from fewstep.graph.index import Index
from fewstep.graph.pattern import match
from fewstep.graph.types import Types

LARGEST_GROUP = 512  # channels: onnxruntime 1.31's kernel has no larger block, and a group is never split


@dataclass(frozen=True)
class GroupNorm:
    """A GroupNorm (Wu and He 2018, arXiv 1803.08494) with an affine map of channels and an optional SiLU.

    x: its input [B, C, ...]. output: the last tensor that it computes. nodes: the outputs of all its nodes.
    gamma, beta: float32 [C]. silu: whether SiLU, y * sigmoid(y), is included.
    """

    x: str
    output: str
    nodes: tuple[str, ...]
    groups: int
    epsilon: float
    gamma: Array
    beta: Array
    silu: bool


def find_group_norms(graph: Graph, idx: Index, types: Types) -> dict[str, GroupNorm]:
    """Return the GroupNorms that onnxruntime's CUDA kernel supports, by the output of their first node.

        Reshape(InstanceNormalization(Reshape(x, [0, groups, -1])), shape of x) [* m + a] [* sigmoid]

    The kernel reads two channels at once, so a group needs an even number of them, and LARGEST_GROUP at most.
    """
    found = {}
    for node in graph.nodes:
        norm = _group_norm(node, graph, idx, types)
        if norm is not None:
            found[norm.nodes[0]] = norm
    return found


def _group_norm(after: Node, graph: Graph, idx: Index, types: Types) -> GroupNorm | None:
    """Return the group normalization whose last node is the Reshape `after`, or None if there is none."""
    matched = match(after, "Reshape(*InstanceNormalization(*Reshape(x), SCALE, SHIFT))", idx)
    if matched is None:
        return None
    _, norm, before = matched.nodes
    x, grouped, result = (types.shape(name) for name in (matched["x"], before.output, after.output))
    if x is None or grouped is None or x != result or len(x) not in (3, 4) or len(grouped) != 3 or x[0] != grouped[0]:
        return None
    channels, groups = x[1], grouped[1]
    if not isinstance(channels, int) or not isinstance(groups, int) or channels % groups:
        return None
    size = channels // groups
    if size % 2 or size > LARGEST_GROUP:
        return None
    gamma, beta = (np.repeat(graph.constants[matched[name]].astype(np.float32), size) for name in ("SCALE", "SHIFT"))
    nodes, output = [before.output, norm.output, after.output], after.output
    for op in ("Mul", "Add"):
        reader = _only_reader(output, idx, op)
        factor = None if reader is None else channel_values(other_input(reader, output), channels, len(x), graph)
        if reader is None or factor is None:
            continue
        gamma, beta = (gamma * factor, beta * factor) if op == "Mul" else (gamma, beta + factor)
        output = reader.output
        nodes.append(output)
    product = _silu(output, idx)
    nodes += [] if product is None else [*product.inputs, product.output]
    epsilon = float(norm.attributes.get("epsilon", 1e-5))
    last, silu = (output, False) if product is None else (product.output, True)
    return GroupNorm(matched["x"], last, tuple(dict.fromkeys(nodes)), groups, epsilon, gamma, beta, silu)


def _only_reader(name: str, idx: Index, op: str) -> Node | None:
    """Return the node that reads a tensor, if it is the only one and has operation `op`. Otherwise return None."""
    readers = idx.consumers.get(name, ())
    return readers[0] if idx.is_inner(name) and readers[0].op == op and not readers[0].domain else None


def other_input(node: Node, name: str) -> str:
    """Return the operand of a node with two inputs that is not `name`."""
    return node.inputs[1] if node.inputs[0] == name else node.inputs[0]


def channel_values(name: str, channels: int, rank: int, graph: Graph) -> Array | None:
    """Return a constant that varies over channels only, as float32 [C]; None for any other tensor."""
    constant = graph.constants.get(name)
    if constant is None or constant.ndim > rank:
        return None
    shape = (1,) * (rank - constant.ndim) + constant.shape
    if any(size != 1 for axis, size in enumerate(shape) if axis != 1) or shape[1] not in (1, channels):
        return None
    return np.broadcast_to(constant.reshape(-1).astype(np.float32), (channels,))


def _silu(name: str, idx: Index) -> Node | None:
    """Return the Mul of a tensor with its own sigmoid (SiLU), if nothing else reads the tensor or the sigmoid.
    Otherwise return None."""
    readers = idx.consumers.get(name, ())
    if name in idx.outputs or len(readers) != 2:
        return None
    product = next((reader for reader in readers if reader.op == "Mul"), None)
    matched = match(product, "Mul(x, *Sigmoid(x))", idx)
    return product if matched is not None and matched["x"] == name else None
