"""Per-group scales for engines that take only constant scales: the graph divides by a factor for each group.

    op(x, W) + bias      ==>      op(x / factor, W) * factor + bias

The input then has one scale, the finest of the groups', and factor[group] = scale[group] / finest. Factors are at
least 1, so nothing overflows in float16 that did not before. The product becomes small instead, but it loses float16
digits only below factor / 16384. A group whose scale is over a thousand times finer than another's takes a coarser
scale. The graph divides by a factor and multiplies by the same factor, not by its reciprocal, so that rounding the
factor causes no gain error.

Around a convolution a factor has as many axes as an image, all of size 1. If the inputs of a kernel differ in their
number of axes, OpenVINO does not keep the layout of its convolutions, which costs two reorders of the image.
"""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fewstep.calibration.lowering.encoding import Encoding, factor_name, product_name
from fewstep.calibration.lowering.group_scales import GROUP_INPUT, gather_columns
from fewstep.graph.additions import NewNodes
from fewstep.graph.graph import Graph, Node
from fewstep.graph.half_types import largest_number, smallest_normal
from fewstep.graph.selection import WeightedOp, bias_shape
from fewstep.graph.weight_quantization import QuantizedWeight

GREATEST = 1024.0


def add_group_factors(
    prepared: Graph,
    ops: Sequence[WeightedOp],
    codes: Mapping[str, Encoding],
    weights: Mapping[str, QuantizedWeight],
    dtype: np.dtype[Any],
) -> tuple[Graph, tuple[WeightedOp, ...], dict[str, Encoding]]:
    """Return the graph with factors around each of `ops` whose input has several scales, and the operations and codes
    (with one scale each) with which it is to be lowered. `dtype` is the compute type of the lowered graph. `weights`
    are not used.

    Tensors keep their names and values; an operation's output before its factor is named by `product_name`. The graph
    gets the input "group". If no code has several scales, the graph is returned unchanged.
    """
    new = NewNodes(prepared)
    factors: dict[str, NDArray[np.float32]] = {}  # [groups], by x
    names: dict[str, str] = {}  # by x: the tensor that is read instead
    single: dict[str, Encoding] = {}
    for x, code in codes.items():
        if len(code.scales) == 1:
            single[x] = code
            continue
        finest, factors[x] = _split_scales(code.scales, dtype)
        names[x] = new.name(f"{x}_scaled")
        single[names[x]] = replace(code, scales=np.array([finest]))
    if not factors:
        return prepared, tuple(ops), single
    inner = {op.name: _inner_operation(op, names[op.x]) for op in ops if op.x in factors}
    rows = gather_columns("factors()", np.stack(list(factors.values()), axis=1), [factor_name(x) for x in factors])
    selected = {op.name: op for op in ops}
    nodes, present = list(rows.nodes), set[str]()
    for node in prepared.nodes:
        if node.output not in inner:
            nodes.append(node)
            continue
        op = selected[node.output]
        factor, shaping = _reshape_factor(op, prepared, new)
        divided = Node("Div", (op.x, factor), (names[op.x],), name=f"scale({op.x})")
        fresh = [node for node in (*shaping, divided) if node.output not in present]
        present.update(node.output for node in fresh)
        nodes.extend((*fresh, inner[op.name].node, *_restore_product(op, factor, prepared, new)))
    graph = replace(prepared, inputs=(*prepared.inputs, GROUP_INPUT))
    graph = graph.with_nodes(nodes, {**rows.constants, **new.constants})
    return graph, tuple(inner.get(op.name, op) for op in ops), single


def _split_scales(scales: NDArray[np.float64], dtype: np.dtype[Any]) -> tuple[float, NDArray[np.float32]]:
    """Return the finest scale, clipped to the range of `dtype`, and the factors [groups]."""
    held = scales.clip(smallest_normal(dtype), largest_number(dtype))
    held = np.maximum(held, held.max() / GREATEST)
    finest = held.min()
    return float(finest), (held / finest).astype(np.float32)


def _inner_operation(op: WeightedOp, x: str) -> WeightedOp:
    """Return the operation that reads the divided input `x` and writes the product before the factor, without a
    bias."""
    return replace(op, node=replace(op.node, inputs=(x, op.weight), outputs=(product_name(op.name),)))


def _reshape_factor(op: WeightedOp, prepared: Graph, new: NewNodes) -> tuple[str, tuple[Node, ...]]:
    """Return the factor of an operation's input, and the nodes that reshape it to an image's axes for a
    convolution."""
    factor = factor_name(op.x)
    if op.node.op != "Conv":
        return factor, ()
    axes = new.constant("picture", np.ones(prepared.constants[op.weight].ndim, np.int64))
    shaped = f"shaped({factor})"
    return shaped, (Node("Reshape", (factor, axes), (shaped,)),)


def _restore_product(op: WeightedOp, factor: str, prepared: Graph, new: NewNodes) -> tuple[Node, ...]:
    """Return the nodes that multiply the product by the factor again, and then add the operation's bias."""
    result = new.name(f"{op.name}_unbiased") if op.bias else op.name
    restored = Node("Mul", (product_name(op.name), factor), (result,), name=f"unscale({op.name})")
    if not op.bias:
        return (restored,)
    (bias,) = op.bias
    value = prepared.constants[bias]
    separate = new.constant(f"{bias}_behind", value.reshape(bias_shape(op, prepared)))
    return restored, Node("Add", (result, separate), (op.name,), name=f"bias({op.name})")
