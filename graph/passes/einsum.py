"""Write an Einsum as Transposes, Reshapes and a MatMul."""

from collections.abc import Mapping
from dataclasses import dataclass
from math import prod
from string import ascii_uppercase

from fewstep.graph.additions import NewNodes
from fewstep.graph.graph import Graph, Node
from fewstep.graph.types import Types, infer_types


@dataclass(frozen=True)
class Operand:
    """A tensor and the letter of each of its axes."""

    name: str
    axes: str


def expand_einsum(graph: Graph) -> Graph:
    """Write an Einsum that permutes axes as a Transpose, and one that multiplies two matrices as a MatMul.

        Einsum("nhwpqc->nchpwq", x)          ==>      Transpose(x)
        Einsum("ncq,nck->nqk", q, k)         ==>      MatMul(Transpose(q), k)
        Einsum("bhwc,cd->bdhw", x, W)        ==>      Transpose(MatMul(x, W))
        Einsum("bchw,bcij->bhwij", q, k)     ==>      Reshape(MatMul(Transpose(Reshape(q)), Reshape(k)))
        Einsum("bnhd,hdo->bno", x, W)        ==>      MatMul(Reshape(x), Reshape(W))

    Engines have kernels for these operations, also in int8. An Einsum stays if it sums over no axis, has more than two
    operands, or needs a Reshape with two free sizes.
    """
    if "Einsum" not in graph.ops():
        return graph
    types, new = infer_types(graph), NewNodes(graph)
    nodes = [replacement for node in graph.nodes for replacement in (_expand(node, graph, types, new) or (node,))]
    return graph.with_nodes(nodes, new.constants)


def _expand(node: Node, graph: Graph, types: Types, new: NewNodes) -> tuple[Node, ...]:
    """Return the nodes that replace an Einsum; nothing for other nodes or an Einsum that stays."""
    if node.op != "Einsum" or node.domain:
        return ()
    equation = node.attributes["equation"]
    text = (equation.decode() if isinstance(equation, bytes) else equation).replace(" ", "")
    left, arrow, result = _expand_ellipsis(text, node, types).partition("->")
    terms = left.split(",")
    plain = all(term.isalpha() and len(set(term)) == len(term) for term in (*terms, result))
    if not arrow or not plain or len(terms) != len(node.inputs):
        return ()
    operands = [Operand(name, axes) for name, axes in zip(node.inputs, terms, strict=True)]
    if len(operands) == 1:
        return _transpose(operands[0], result, node) if set(result) == set(terms[0]) else ()
    return _product(operands[0], operands[1], result, node, graph, types, new) if len(operands) == 2 else ()


def _expand_ellipsis(text: str, node: Node, types: Types) -> str:
    """Replace "..." in an equation by letters, if all operands that have it agree on its axes."""
    terms = text.partition("->")[0].split(",")
    shapes = [types.shape(name) for name in node.inputs]
    hidden = set()
    for term, shape in zip(terms, shapes, strict=False):
        before, dots, after = term.partition("...")
        if dots:
            hidden.add(None if shape is None else shape[len(before) : len(shape) - len(after)])
    if len(hidden) != 1 or (axes := hidden.pop()) is None:
        return text
    return text.replace("...", "".join([letter for letter in ascii_uppercase if letter not in text][: len(axes)]))


def _transpose(operand: Operand, axes: str, node: Node) -> tuple[Node, ...]:
    """Return the Transpose of an operand to `axes`, with the outputs of a node."""
    perm = [operand.axes.index(axis) for axis in axes]
    return (Node("Transpose", (operand.name,), node.outputs, {"perm": perm}, node.name),)


def _product(
    a: Operand, b: Operand, axes: str, node: Node, graph: Graph, types: Types, new: NewNodes
) -> tuple[Node, ...]:
    """Return the MatMul of [batch.., rows.., summed] and [batch.., summed, column] that computes the outputs of a node
    with these axes; nothing if the node is not such a product.

    Transposes come before and after it. Reshapes merge several summed axes, columns, or rows after a batch into one.
    """
    summed = "".join(axis for axis in a.axes if axis in b.axes and axis not in axes)
    if not summed or set(axes) != (set(a.axes) | set(b.axes)) - set(summed):
        return ()
    batch = "".join(axis for axis in axes if axis in a.axes and axis in b.axes)
    rows, columns = ("".join(axis for axis in axes if axis in t.axes and axis not in batch) for t in (a, b))
    if (len(columns) != 1 and len(rows) == 1) or (graph.is_constant(a.name) and not batch):
        a, b, rows, columns = b, a, columns, rows
    if not rows or not columns:
        return ()
    leading, row = (batch, rows) if batch else (rows[:-1], rows[-1:])  # a weight keeps leading rows as separate axes
    sizes = _sizes(a, types) | _sizes(b, types)
    made, joined = (
        leading + row + columns,
        len(row) > 1 or len(columns) > 1,
    )  # axes of the product, some of them still merged
    to_left, to_result = (_target(leading, groups, sizes) for groups in ((row, summed), (*row, *columns)))
    to_right = _target(batch, (summed, columns), sizes)
    if (joined or len(summed) > 1) and None in (to_left, to_result, to_right):
        return ()
    nodes: list[Node] = []

    def add(op: str, inputs: tuple[str, ...], name: str, **attributes: list[int]) -> str:
        nodes.append(Node(op, inputs, (name,), attributes, node.name if op == "MatMul" else f"{node.name}_{op}"))
        return name

    def arrange(operand: Operand, order: str, groups: tuple[str, str], target: tuple[int, ...] | None) -> str:
        name = operand.name
        if operand.axes != order:
            perm = [operand.axes.index(axis) for axis in order]
            name = add("Transpose", (name,), new.name(f"{node.output}_{operand.name}_permuted"), perm=perm)
        if target is not None and max(map(len, groups)) > 1:
            name = add("Reshape", (name, new.shape(target)), new.name(f"{node.output}_{operand.name}_joined"))
        return name

    left = arrange(a, leading + row + summed, (row, summed), to_left)
    right = arrange(b, batch + summed + columns, (summed, columns), to_right)
    name = node.output if made == axes and not joined else new.name(f"{node.output}_product")
    name = add("MatMul", (left, right), name)
    if joined and to_result is not None:
        apart = node.output if made == axes else new.name(f"{node.output}_apart")
        name = add("Reshape", (name, new.shape(to_result)), apart)
    if made != axes:
        nodes.extend(_transpose(Operand(name, made), axes, node))
    return tuple(nodes)


def _sizes(operand: Operand, types: Types) -> dict[str, int | str]:
    """Return the size of each axis of an operand, by the axis's letter; empty if the shape is unknown."""
    shape = types.shape(operand.name)
    return {} if shape is None else dict(zip(operand.axes, shape, strict=True))


def _target(leading: str, groups: tuple[str, ...], sizes: Mapping[str, int | str]) -> tuple[int, ...] | None:
    """Return the constant target of a Reshape that keeps leading axes and merges each group into one axis; None if two
    of the merged sizes are unknown."""
    dims = [[sizes.get(axis, "?") for axis in group] for group in groups]
    joined = [-1 if any(isinstance(dim, str) for dim in group) else prod(map(int, group)) for group in dims]
    return None if joined.count(-1) > 1 else (*[0] * len(leading), *joined)
