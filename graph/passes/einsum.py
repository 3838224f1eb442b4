"""Write an Einsum as the Transposes and the MatMul that it stands for."""

from dataclasses import dataclass, replace

from fewstep.graph.additions import Additions
from fewstep.graph.graph import Graph, Node


@dataclass(frozen=True)
class Operand:
    """A tensor and the letter of each of its axes."""

    name: str
    axes: str


def expand_einsum(graph: Graph) -> Graph:
    """Write an Einsum that permutes axes as a Transpose, and one that multiplies two matrices as a MatMul.

        Einsum("nhwpqc->nchpwq", x)      ==>      Transpose(x)
        Einsum("ncq,nck->nqk", q, k)     ==>      MatMul(Transpose(q), k)
        Einsum("bhwc,cd->bdhw", x, W)    ==>      Transpose(MatMul(x, W))

    Engines have kernels for these, also in int8. An Einsum that sums over several axes stays, and one of more than two
    operands.
    """
    new = Additions(graph)
    return graph.with_nodes(each for node in graph.nodes for each in (_written_out(node, new) or (node,)))


def _written_out(node: Node, new: Additions) -> tuple[Node, ...]:
    if node.op != "Einsum" or node.domain:
        return ()
    equation = node.attributes["equation"]
    text = (equation.decode() if isinstance(equation, bytes) else equation).replace(" ", "")
    left, arrow, result = text.partition("->")
    terms = left.split(",")
    plain = all(term.isalpha() and len(set(term)) == len(term) for term in (*terms, result))
    if not arrow or not plain or len(terms) != len(node.inputs):
        return ()
    operands = [Operand(name, axes) for name, axes in zip(node.inputs, terms, strict=True)]
    if len(operands) == 1:
        return _permuted(operands[0], result, node) if set(result) == set(terms[0]) else ()
    return _product(operands[0], operands[1], result, node, new) if len(operands) == 2 else ()


def _permuted(operand: Operand, axes: str, node: Node) -> tuple[Node, ...]:
    """The Transpose of an operand to `axes`, which makes the outputs of a node."""
    perm = [operand.axes.index(axis) for axis in axes]
    return (Node("Transpose", (operand.name,), node.outputs, {"perm": perm}, node.name),)


def _product(a: Operand, b: Operand, axes: str, node: Node, new: Additions) -> tuple[Node, ...]:
    """The MatMul of [batch.., rows.., summed] and [batch.., summed, column], with Transposes before and behind it, that
    makes the outputs of a node with these axes; nothing where the node is no such product."""
    summed = [axis for axis in a.axes if axis in b.axes and axis not in axes]
    if len(summed) != 1 or set(axes) != (set(a.axes) | set(b.axes)) - set(summed):
        return ()
    batch = "".join(axis for axis in axes if axis in a.axes and axis in b.axes)
    rows, columns = ("".join(axis for axis in axes if axis in t.axes and axis not in batch) for t in (a, b))
    if len(columns) != 1 and len(rows) == 1:
        a, b, rows, columns = b, a, columns, rows
    if len(columns) != 1 or not rows or (batch and len(rows) != 1):
        return ()
    nodes: list[Node] = []

    def ordered(operand: Operand, order: str) -> str:
        if operand.axes == order:
            return operand.name
        name = new.name(f"{node.output}_{operand.name}_permuted")
        nodes.extend(_permuted(operand, order, replace(node, outputs=(name,), name=f"{node.name}_permuted")))
        return name

    inputs = (ordered(a, batch + rows + summed[0]), ordered(b, batch + summed[0] + columns))
    product = batch + rows + columns
    result = node.output if product == axes else new.name(f"{node.output}_product")
    nodes.append(Node("MatMul", inputs, (result,), name=node.name))
    if product != axes:
        nodes.extend(_permuted(Operand(result, product), axes, node))
    return tuple(nodes)
