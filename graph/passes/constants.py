"""Compute constant expressions in advance, so that no step computes them, and remove nodes whose outputs are not
used."""

from dataclasses import replace

import numpy as np

from fewstep.graph.graph import Array, Graph
from fewstep.graph.index import index
from fewstep.graph.session import run

GROWTH_LIMIT = 2**20  # bytes: a result larger than this and than its inputs is not folded
RANDOM = ("RandomNormal", "RandomUniform", "RandomNormalLike", "RandomUniformLike", "Bernoulli", "Multinomial")


def fold_constants(graph: Graph) -> Graph:
    """Replace nodes that depend only on constants by their values.

        y = Mul(Range(0, 4), c)      ==>      constant y

    Transposed weights become views of the weights, which stay in memory or in a file. A node is not folded if its
    result has more than GROWTH_LIMIT bytes and is larger than its inputs.
    """
    moved = _views(graph)
    if moved:
        left = (node for node in graph.nodes if moved.keys().isdisjoint(node.outputs))
        graph = graph.with_nodes(left, moved)
    constant = set(graph.constants) | {""}
    candidates = []
    for node in graph.nodes:
        if node.op not in RANDOM and constant.issuperset(node.inputs):
            constant.update(node.outputs)
            candidates.append(node)
    if not candidates:
        return graph
    # onnxruntime computes them with the kernels that would have run
    wanted = [output for node in candidates for output in node.outputs if output]
    read = {name: graph.constants[name] for node in candidates for name in node.inputs if name in graph.constants}
    values = run(Graph("constants", (), (), tuple(candidates), read), {}, also=wanted)
    sizes = {name: array.nbytes for name, array in (read | values).items()} | {"": 0}
    folded: dict[str, Array] = {}
    for node in candidates:
        outputs = {output: values[output] for output in node.outputs if output}
        if sum(sizes[output] for output in outputs) <= max(GROWTH_LIMIT, sum(sizes[name] for name in node.inputs)):
            folded |= outputs
    return graph.with_nodes((node for node in graph.nodes if folded.keys().isdisjoint(node.outputs)), folded)


def _views(graph: Graph) -> dict[str, Array]:
    """Return the results of Transposes of constants, by name."""
    views: dict[str, Array] = {}
    for node in graph.nodes:
        if node.op == "Transpose" and not node.domain:
            array = views.get(node.inputs[0], graph.constants.get(node.inputs[0]))
            if array is not None:
                views[node.output] = np.transpose(array, node.attributes.get("perm"))
    return views


def drop_unused(graph: Graph) -> Graph:
    """Remove nodes and constants that no output depends on.

    a = f(x), b = g(x), return a      ==>      a = f(x), return a
    """
    needed = index(graph).dependencies(value.name for value in graph.outputs)
    return replace(
        graph,
        nodes=tuple(node for node in graph.nodes if not needed.isdisjoint(node.outputs)),
        constants={name: array for name, array in graph.constants.items() if name in needed},
        optional=tuple(value for value in graph.optional if value.name in needed),
    )
