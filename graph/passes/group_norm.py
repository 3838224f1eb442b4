"""Write GroupNorm with operations that keep the layout [B, C, H, W] of images."""

from math import prod

import numpy as np

from fewstep.graph.additions import NewNodes
from fewstep.graph.graph import Graph, Node
from fewstep.graph.index import index
from fewstep.graph.pattern import Match, match
from fewstep.graph.types import Types, infer_types

LEAST = 12_000  # elements of a sample; for fewer, the additional nodes cost more than the layout changes


def expand_group_norm(graph: Graph) -> Graph:
    """Write each GroupNorm of large images (Wu and He 2018, arXiv 1803.08494) without reshaping them.

        Reshape(InstanceNormalization(Reshape(x, [0, groups, -1])), shape of x)
            ==>      d / Sqrt(g(d d) + epsilon)      with  d = x - g(x)

    Here g(x) [B, C, 1, ...] is the mean over positions, then over the channels of a group. If the number of positions
    is fixed, ReduceL2 gives the mean of d d over them, and no tensor holds d d itself. An engine that computes
    convolutions with channels last, as OpenVINO 2026.4 does, changes the layout of an image for the Reshape and back
    again. The mean is subtracted before the square, so nothing cancels. Results are equal up to float32 rounding. A
    sequence, which has one axis of positions, stays: this form is slower there.
    """
    idx, types, new = index(graph), infer_types(graph), NewNodes(graph)
    changed: dict[str, tuple[Node, ...]] = {}
    for node in graph.nodes:
        found = match(node, "Reshape(*InstanceNormalization(*Reshape(x), SCALE, SHIFT))", idx)
        if found is not None:
            changed |= _expand(found, graph, types, new)
    return graph.with_nodes(
        (replacement for node in graph.nodes for replacement in changed.get(node.output, (node,))), new.constants
    )


def _expand(found: Match, graph: Graph, types: Types, new: NewNodes) -> dict[str, tuple[Node, ...]]:
    """Return the nodes that replace a GroupNorm, by the outputs that they replace; nothing if it is not large, or if
    its scale and shift are not 1 and 0."""
    after, norm, before = found.nodes
    x, grouped, result = (types.shape(name) for name in (found["x"], before.output, after.output))
    if x is None or grouped is None or x != result or len(x) < 4 or len(grouped) != 3:
        return {}
    if (types.sample_bytes(found["x"]) or 0) < LEAST * np.dtype(np.float32).itemsize:
        return {}
    if (graph.constants[found["SCALE"]] != 1).any() or graph.constants[found["SHIFT"]].any():
        return {}
    channels, groups = x[1], grouped[1]
    if not isinstance(channels, int) or not isinstance(groups, int) or channels % groups or x[0] != grouped[0]:
        return {}
    return {
        before.output: (),
        norm.output: (),
        after.output: _nodes(found["x"], x, channels, groups, norm, after, new),
    }


def _nodes(
    x: str, shape: tuple[int | str, ...], channels: int, groups: int, norm: Node, after: Node, new: NewNodes
) -> tuple[Node, ...]:
    """Return the nodes of the expanded GroupNorm, from x [B, C, ...] of this shape to the output of `after`."""
    y, rank = after.output, len(shape)
    positions = new.constant("positions", np.arange(2, rank))
    epsilon = new.constant("epsilon", np.array(norm.attributes.get("epsilon", 1e-5), np.float32))

    def spread(by_channel: str, name: str) -> tuple[str, tuple[Node, ...]]:
        """Return the mean [B, C, 1, ...] over the channels of each group, and the nodes that compute it from [B, C, 1,
        ...]."""
        parts = [new.name(f"{y}_{name}_{part}") for part in ("apart", "groups", "spread", "all")]
        apart, by_group, wide, result = parts
        return result, (
            Node("Reshape", (by_channel, new.constant("apart", np.array([0, groups, -1]))), (apart,)),
            Node("ReduceMean", (apart, new.constant("last", np.array([2]))), (by_group,), {"keepdims": 1}, by_group),
            Node("Expand", (by_group, new.constant("spread", np.array([1, groups, channels // groups]))), (wide,)),
            Node("Reshape", (wide, new.constant("all", np.array([0, channels, *[1] * (rank - 2)]))), (result,)),
        )

    def reduce_positions(op: str, of: str, name: str) -> Node:
        by_channel = new.name(f"{y}_{name}_channels")
        return Node(op, (of, positions), (by_channel,), {"keepdims": 1}, by_channel)

    def squares(of: str) -> tuple[Node, ...]:
        """Return the nodes that compute the mean of squares over positions. The last node returns the mean."""
        squared = new.name(f"{y}_squared")
        sizes = [size for size in shape[2:] if isinstance(size, int)]
        if len(sizes) < rank - 2:
            return Node("Mul", (of, of), (squared,), {}, squared), reduce_positions("ReduceMean", squared, "variance")
        length, by_channel = reduce_positions("ReduceL2", of, "length"), new.name(f"{y}_variance_channels")
        share = new.constant(f"share({prod(sizes)})", np.array(1 / prod(sizes), np.float32))
        return (
            length,
            Node("Mul", (length.output, length.output), (squared,), {}, squared),
            Node("Mul", (squared, share), (by_channel,), {}, by_channel),
        )

    average = reduce_positions("ReduceMean", x, "mean")
    centre, centring = spread(average.output, "mean")
    centred, sum_, deviation = (new.name(f"{y}_{part}") for part in ("centred", "sum", "deviation"))
    squaring = squares(centred)
    variance, varying = spread(squaring[-1].output, "variance")
    return (
        average,
        *centring,
        Node("Sub", (x, centre), (centred,), {}, centred),
        *squaring,
        *varying,
        Node("Add", (variance, epsilon), (sum_,), {}, sum_),
        Node("Sqrt", (sum_,), (deviation,), {}, deviation),
        Node("Div", (centred, deviation), (y,), {}, norm.name),
    )
