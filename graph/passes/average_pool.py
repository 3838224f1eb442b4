"""Write average pools over padding in forms that every version of onnxruntime computes correctly.

Measured on x86, in onnxruntime's versions:

- 1.21 to 1.24: an AveragePool that counts its padding (`count_include_pad`), and whose padding differs between the two
  ends of an axis, divides by wrong numbers. The error is up to 38 % of the largest output. So does one whose `auto_pad`
  is SAME_UPPER, if such padding results.
- 1.25 to 1.28: so does one that counts its padding, rounds its output size up (`ceil_mode`), and follows a convolution.
- 1.21 to 1.31: a Pad before a pool with `ceil_mode` is fused into it, which changes the divisor.

A Pad before a pool that counts no padding is equal and correct, if the Pad is not fused into the pool. onnxruntime does
not fuse a Pad that names its axes.
"""

from collections.abc import Iterator
from dataclasses import replace
from itertools import repeat

import numpy as np

from fewstep.graph.additions import NewNodes
from fewstep.graph.graph import Graph, Node
from fewstep.graph.index import index
from fewstep.graph.types import infer_types

AXES = 3  # the input of Pad that names the padded axes
Size = int | str | None


def separate_pool_padding(graph: Graph) -> Graph:
    """Let each Pad before an AveragePool name its axes, and move counted padding of an AveragePool to such a Pad.

    Padding that onnxruntime counts correctly stays in the pool. So does padding with `ceil_mode` if an image has a free
    size, or if the last window would begin in the padding, and padding of `auto_pad` if an image has a free size.
    """
    idx, new = index(graph), NewNodes(graph)
    pools = [node for node in graph.nodes if node.op == "AveragePool" and not node.domain]
    padding = {id(pad) for pool in pools if (pad := idx.producer(pool.inputs[0], "Pad")) is not None}
    is_needed = any(_is_wrong(pool) and any(_pads(pool)) or _counts_auto_pad(pool) for pool in pools)
    sizes = {name: value.shape[2:] for name, value in infer_types(graph).values.items()} if is_needed else {}
    nodes: list[Node] = []
    for node in graph.nodes:
        if id(node) in padding and node.inputs[1] in graph.constants and not any(node.inputs[AXES:]):
            nodes.append(_name_axes(node, len(graph.constants[node.inputs[1]]) // 2, new))
        elif node.op == "AveragePool" and not node.domain:
            image = sizes.get(node.inputs[0], ())
            pool = _with_pads(node, image) if _counts_auto_pad(node) else node
            nodes.extend(_move_padding(pool, image, new) if _is_wrong(pool) else [node])
        else:
            nodes.append(node)
    return graph.with_nodes(nodes, new.constants)


def _pads(pool: Node) -> list[int]:
    return list(pool.attributes.get("pads", ()))


def _is_wrong(pool: Node) -> bool:
    """Return whether a version of onnxruntime computes the pool incorrectly."""
    pads = _pads(pool)
    is_one_sided = pads[: len(pads) // 2] != pads[len(pads) // 2 :]
    is_counted = bool(pool.attributes.get("count_include_pad", 0)) and not _counts_auto_pad(pool)
    return is_counted and bool(is_one_sided or pool.attributes.get("ceil_mode", 0))


def _counts_auto_pad(pool: Node) -> bool:
    """Return whether the pool counts padding that its `auto_pad` leaves to the sizes of the image."""
    return bool(pool.attributes.get("count_include_pad", 0)) and pool.attributes.get("auto_pad", b"")[:4] == b"SAME"


def _with_pads(pool: Node, sizes: tuple[Size, ...]) -> Node:
    """Return a pool with the `pads` that its `auto_pad` stands for; the pool itself without padding, with a free size,
    or with dilations, which onnxruntime leaves out of these pads."""
    windows, strides = pool.attributes["kernel_shape"], pool.attributes.get("strides", repeat(1))
    totals = [
        max((-(-size // stride) - 1) * stride + window - size, 0)
        for size, window, stride in zip(sizes, windows, strides, strict=False)
        if isinstance(size, int)
    ]
    if len(totals) < len(windows) or not any(totals) or {*pool.attributes.get("dilations", ())} - {1}:
        return pool
    less, more = [total // 2 for total in totals], [total - total // 2 for total in totals]
    pads = less + more if pool.attributes["auto_pad"] == b"SAME_UPPER" else more + less
    attributes = {name: value for name, value in pool.attributes.items() if name != "auto_pad"}
    return replace(pool, attributes={**attributes, "pads": pads})


def _name_axes(pad: Node, rank: int, new: NewNodes) -> Node:
    value = pad.inputs[2] if len(pad.inputs) > 2 else ""
    axes = new.constant("pad_axes", np.arange(rank))
    return Node("Pad", (*pad.inputs[:2], value, axes), pad.outputs, pad.attributes, pad.name)


def _move_padding(pool: Node, sizes: tuple[Size, ...], new: NewNodes) -> Iterator[Node]:
    """Yield the nodes that replace a pool over an image of these sizes."""
    pads = _pads(pool)
    if any(pads) and pool.attributes.get("ceil_mode", 0) and not _starts_inside(pool, sizes):
        yield pool
        return
    x = pool.inputs[0]
    if any(pads):
        axes = len(pads) // 2
        widths = new.constant("pool_pads", np.array([0, 0, *pads[:axes], 0, 0, *pads[axes:]]))
        x = new.name(f"{pool.output}_padded")
        yield _name_axes(Node("Pad", (pool.inputs[0], widths), (x,), {"mode": b"constant"}, x), axes + 2, new)
    attributes = {name: value for name, value in pool.attributes.items() if name not in ("pads", "count_include_pad")}
    yield Node("AveragePool", (x,), pool.outputs, attributes, pool.name)


def _starts_inside(pool: Node, sizes: tuple[Size, ...]) -> bool:
    """Return whether the last window of each axis, when the output's size is rounded up, begins before the padding at
    the end. Otherwise a pool has one window fewer than a pool over a Pad."""
    pads, windows = _pads(pool), pool.attributes["kernel_shape"]
    strides = pool.attributes.get("strides", repeat(1))
    axes = zip(sizes, windows, strides, pads[: len(pads) // 2], pads[len(pads) // 2 :], strict=False)
    return (
        bool(sizes)
        and "dilations" not in pool.attributes
        and all(
            isinstance(size, int) and -(-(size + before + after - window) // stride) * stride < size + before
            for size, window, stride, before, after in axes
        )
    )
