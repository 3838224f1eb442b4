"""Read the batch size and the free sizes from inputs other than x where possible, so that fewer tensors of the graph
depend on x."""

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import replace

import numpy as np

from fewstep.graph.additions import NewNodes
from fewstep.graph.graph import BATCH, TIME, Graph, Node, X, rename_inputs, varies_per_call
from fewstep.graph.index import index
from fewstep.graph.passes.constants import RANDOM
from fewstep.graph.selection import SIZES
from fewstep.graph.types import Types, infer_types


def reroute_shape_reads(graph: Graph) -> Graph:
    """Let tensors that do not depend on the values of x read sizes from another input, on which they depend anyway.

        Concat(Gemm(time), Expand(c, Shape(x)[:1]))  ==>  Concat(Gemm(time), Expand(c, Shape(time)))

    This is possible since all inputs have the same batch. Without it, such tensors would depend on x and run at every
    step. Tensors that have lost the batch axis, such as one time for all samples, still read the batch of x, since a
    prologue has other times in its batch. In a graph with free sizes, two rewrites help shape inference: sizes of inner
    tensors that x has too are read from x, and a number n becomes [n] by Unsqueeze.
    """
    if graph.extents and any(value.name == X for value in graph.inputs):
        graph = _reroute_to_x(graph)
    follows = _source_inputs(graph)
    of_sizes = {output: node for node in graph.nodes if node.output not in follows for output in node.outputs}
    # by output of a node: the nodes that compute its sizes from tensors that the node does not depend on
    far = {
        node.output: _far_sizes(node, follows, of_sizes) for node in graph.nodes if _choose_input(node, graph, follows)
    }
    if not any(far.values()):
        return graph
    types, new = infer_types(graph), NewNodes(graph)
    pairs = ((node.output, types.shape(name) or ()) for node in graph.nodes for name in node.inputs if name in follows)
    far |= {name: [] for name, shape in pairs if BATCH not in shape}  # one value for all samples
    copies: dict[tuple[str, str], str] = {}  # (tensor of sizes, port) -> its name if read from the port
    nodes: list[Node] = []
    for node in graph.nodes:
        port, names = _choose_input(node, graph, follows), dict[str, str]()
        for each in far.get(node.output, ()):
            is_read = each.op in SIZES
            is_changed = not names.keys().isdisjoint(each.inputs)  # otherwise each round would add a copy
            made = list(_port_sizes(each, port, types, new)) if is_read else [rename_inputs(each, names)] * is_changed
            if made and (each.output, port) not in copies:
                copies |= {(name, port): new.name(f"{name}_of_{port}") for name in each.outputs}
                outputs = tuple(copies[name, port] for name in each.outputs)
                nodes += [*made[:-1], replace(made[-1], outputs=outputs, name=outputs[0])]
            names |= {name: copies[name, port] for name in each.outputs if made}
        nodes.append(rename_inputs(node, names))
    return graph.with_nodes(nodes, new.constants)


def _source_inputs(graph: Graph) -> dict[str, frozenset[str]]:
    """Return, for each tensor, the graph inputs on which its values depend. Tensors that depend only on sizes and
    constants are left out, since they are computed again for each reader."""
    follows = {value.name: frozenset([value.name]) for value in graph.inputs}
    sized = set[str]()
    for node in graph.nodes:
        read = [name for name in node.inputs if name and name not in graph.constants]
        if node.op in SIZES or (read and sized.issuperset(read) and node.op not in RANDOM):
            sized.update(node.outputs)
        else:
            given = frozenset[str]().union(*(follows.get(name, frozenset()) for name in read))
            follows.update(dict.fromkeys(node.outputs, given))
    return follows


def _choose_input(node: Node, graph: Graph, follows: Mapping[str, frozenset[str]]) -> str:
    """Return the input from which a node may read the batch: among its source inputs the time, otherwise a condition.
    Return "" for nodes that depend on x, and for sizes and constants."""
    given = follows.get(node.output, frozenset())
    ports = [value.name for value in graph.inputs if value.name in given and value.shape]
    return "" if not ports or any(map(varies_per_call, given)) else TIME if TIME in ports else ports[0]


def _far_sizes(node: Node, follows: Mapping[str, frozenset[str]], of_sizes: Mapping[str, Node]) -> list[Node]:
    """Return the nodes among `of_sizes` that a node reads and that would make it depend on more inputs: they read sizes
    of tensors with source inputs that the node does not have."""
    made: dict[str, Node] = {}

    def visit(names: Iterable[str]) -> None:
        for each in (of_sizes[name] for name in names if name in of_sizes):
            if each.output not in made:
                visit(each.inputs)
                made[each.output] = each

    visit(node.inputs)
    given, far = follows[node.output], dict[str, Node]()
    for each in made.values():
        source = follows.get(each.inputs[0]) if each.op in SIZES else given
        if source is None or not source <= given or not far.keys().isdisjoint(each.inputs):
            far |= dict.fromkeys(each.outputs, each)
    return [node for node in made.values() if node.output in far]


def _port_sizes(node: Node, port: str, types: Types, new: NewNodes) -> Iterator[Node]:
    """Yield new nodes that replace a Shape node: they compute the same sizes from the graph input `port`. Yield nothing
    if one of the sizes is neither a constant nor a named size of that input."""
    wanted, own = types.shape_op_value(node), types.shape(port)
    axes: dict[int | str, int] = {size: axis for axis, size in enumerate(own or ()) if isinstance(size, str)}
    if node.op != "Shape" or not wanted or not all(isinstance(size, int) or size in axes for size in wanted):
        return
    parts = []
    for size in wanted:
        if isinstance(size, int):
            parts.append(new.constant(f"size_{size}", np.array([size], np.int64)))
            continue
        part = new.name(f"{node.output}_{size}") if len(wanted) > 1 else node.output
        yield Node("Shape", (port,), (part,), {"start": axes[size], "end": axes[size] + 1}, part)
        parts.append(part)
    if len(wanted) > 1:
        yield Node("Concat", tuple(parts), node.outputs, {"axis": 0}, node.name)


def _reroute_to_x(graph: Graph) -> Graph:
    """Read all sizes of inner tensors that are also sizes of x from x. A Reshape of a scalar to [1] becomes
    Unsqueeze."""
    types, new = infer_types(graph), NewNodes(graph)
    moving = index(graph).dependents([X])
    nodes: list[Node] = []
    for node in graph.nodes:
        made: tuple[Node, ...] = ()
        if node.op == "Shape" and not node.domain and node.inputs[0] != X:
            made = tuple(_port_sizes(node, X, types, new))
            made = () if node.inputs[0] in moving and len(made) > 1 else made
        elif _lengthens_number(node, graph, types):
            axis = new.constant("axis_0", np.array([0], np.int64))
            made = (replace(node, op="Unsqueeze", inputs=(node.inputs[0], axis), attributes={}),)
        nodes.extend(made or (node,))
    return graph.with_nodes(nodes, new.constants)


def _lengthens_number(node: Node, graph: Graph, types: Types) -> bool:
    """Return True if a node is a Reshape of a scalar to shape [1]."""
    target = graph.constants.get(node.inputs[1]) if node.op == "Reshape" and not node.domain else None
    return target is not None and target.tolist() in ([-1], [1]) and types.shape(node.inputs[0]) == ()
