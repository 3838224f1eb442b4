"""Bias correction of each layer for itself: both graphs' layers are given the float denoiser's activations.

`body_bias.py` compares layers of the whole int8 body with the float ones, so that a layer is also charged with what
those before it did, twice over once they are corrected too. Here it answers for its own rounding alone, and one pass is
enough (Nagel et al. 2019, arXiv 1906.04721, section 4.2, with the measured in place of the assumed means).
"""

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
from choices.bias import Corrections
from choices.shifts import Shifts

from fewstep.calibration.count import batch_of
from fewstep.calibration.inputs import evaluations
from fewstep.calibration.task import Task
from fewstep.graph.graph import GROUP, Graph, Node, rename_inputs
from fewstep.graph.selection import WeightedOp
from fewstep.graph.session import open_session
from fewstep.graph.types import infer_types
from fewstep.lowering.quantize import lower_graph
from fewstep.lowering.scheme import Target
from fewstep.ranges.observe import open_watched
from fewstep.ranges.table import RangesTable
from fewstep.runtime.progress import SILENT, Progress


def local_corrections(task: Task, table: RangesTable, target: Target, progress: Progress = SILENT) -> Corrections:
    """What to add to each layer's output, by group, for the means of its own rounding errors."""
    graph, ops, _ = lower_graph(task.prepared, table, target)
    names = tuple(dict.fromkeys(name for op in ops for name in (op.x, op.name)))
    exact = open_watched(task.prepared, names)
    int8 = open_session(operations_alone(graph, ops, task.prepared), optimize=True)
    edged, shifts = replace(task, edges=table.groups), Shifts(ops, len(table.groups) + 1)
    for evaluation in evaluations(edged, exact, "deployed", progress, batch_of(task, names)):
        group = edged.group(evaluation.state.step)
        held = {**evaluation.feeds, **evaluation.tensors}
        given = {_given(op.x): held[op.x] for op in ops}
        shifts.add(held, int8({**given, GROUP: np.array([group])}), group)
    return shifts.corrections()


def operations_alone(lowered: Graph, ops: Sequence[WeightedOp], prepared: Graph) -> Graph:
    """From the activations that the operations read, given as inputs, to what each of them makes in integers."""
    types = infer_types(prepared).values
    given = {op.x: _given(op.x) for op in ops}
    needed = {op.name for op in ops}
    nodes: list[Node] = []
    for node in reversed(lowered.nodes):
        if needed.intersection(node.outputs):
            nodes.append(rename_inputs(node, given))
            needed.update(name for name in node.inputs if name not in given)
    groups = tuple(value for value in lowered.inputs if value.name == GROUP)
    inputs = (*(replace(types[x], name=name) for x, name in given.items()), *groups)
    outputs = tuple(types[op.name] for op in ops)
    return replace(lowered, inputs=inputs, outputs=outputs, nodes=tuple(reversed(nodes)))


def _given(x: str) -> str:
    return f"given({x})"
