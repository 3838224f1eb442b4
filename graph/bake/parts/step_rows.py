"""Compute, when the run is split, all tensors of a step that depend only on its number. The step then has no integer
arithmetic.

Browsers' WebGPU has no kernels for most int64 operations, which would run on the CPU, with a copy before and after
each. If these tensors are inputs, the step consists only of the network, guidance and the update.
"""

from collections.abc import Mapping
from dataclasses import dataclass, replace

import numpy as np

from fewstep.graph.bake.parts.split_run import Steps, fix_shapes
from fewstep.graph.graph import Array, Graph, rename_inputs
from fewstep.graph.passes.constants import RANDOM, drop_unused
from fewstep.graph.session import open_session
from fewstep.graph.types import infer_types


@dataclass(frozen=True)
class NumberedSteps:
    """A step without the input for its number: values that differ from step to step are inputs instead.

    graph: the step, with fixed shapes.
    rows: for each step, the values of these inputs, by name.
    """

    graph: Graph
    rows: tuple[Mapping[str, Array], ...]


def lift_step_numbers(steps: Steps, values: Mapping[str, Array]) -> NumberedSteps:
    """Return a step for these shapes, with the tensors that depend only on the step's number as inputs.

        Gather(table, number)      ==>      an input, whose value for each step is in `rows`

    values: an array for each input except the number; only its shape is used. A tensor that is equal in all steps
        becomes a constant. Tensors that are equal to each other in every step become one input.
    """
    graph = fix_shapes(steps, values)
    lifted = _number_only(graph, steps.number)
    nodes = tuple(node for node in graph.nodes if not lifted.isdisjoint(node.outputs))
    rest = tuple(node for node in graph.nodes if lifted.isdisjoint(node.outputs))
    read = {name for node in rest for name in node.inputs} | {value.name for value in graph.outputs}
    wanted = [name for node in nodes for name in node.outputs if name in read]
    session = open_session(replace(graph, nodes=nodes, outputs=()), also=wanted)
    rows = [session({**values, steps.number: np.array(number)}) for number in range(steps.count)]
    constants, names = dict[str, Array](), dict[str, str]()
    kept: list[str] = []
    for name in wanted:
        if all(np.array_equal(row[name], rows[0][name]) for row in rows):
            constants[name] = rows[0][name]
            continue
        names[name] = next((other for other in kept if all(_is_same(row[name], row[other]) for row in rows)), name)
        kept += [name] if names[name] == name else []
    types = infer_types(replace(graph, nodes=nodes, outputs=())).values
    inputs = tuple(value for value in graph.inputs if value.name != steps.number)
    added = tuple(replace(types[name], shape=rows[0][name].shape) for name in kept)
    changed = replace(
        graph.with_nodes((rename_inputs(node, names) for node in rest), constants), inputs=(*inputs, *added)
    )
    return NumberedSteps(_drop_unread_inputs(drop_unused(changed)), tuple({n: row[n] for n in kept} for row in rows))


def _number_only(graph: Graph, number: str) -> frozenset[str]:
    """Return the names of the tensors that depend only on the number of the step and on fixed shapes."""
    fixed = {value.name for value in graph.inputs if not any(isinstance(size, str) for size in value.shape)}
    known = {number, "", *graph.constants}
    outputs = {value.name for value in graph.outputs}
    found: set[str] = set()
    for node in graph.nodes:
        is_known = known.issuperset(node.inputs) or (node.op == "Shape" and node.inputs[0] in fixed)
        if is_known and node.op not in (*RANDOM, "DequantizeLinear") and outputs.isdisjoint(node.outputs):
            known.update(node.outputs)
            found.update(node.outputs)
    return frozenset(found)


def _is_same(left: Array, right: Array) -> bool:
    return left.dtype == right.dtype and left.shape == right.shape and np.array_equal(left, right)


def _drop_unread_inputs(graph: Graph) -> Graph:
    """Return the graph without inputs that no node reads, because inference engines remove or reject them."""
    read = {name for node in graph.nodes for name in node.inputs}
    return replace(graph, inputs=tuple(value for value in graph.inputs if value.name in read))
