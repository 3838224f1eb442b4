"""Bias correction of the whole body: its layers are compared with the float ones, each behind those before it."""

from dataclasses import replace

from choices.bias import Corrections, correct, with_sums
from choices.shifts import Shifts

from fewstep.calibration.count import batch_of, in_group
from fewstep.calibration.inputs import evaluations
from fewstep.calibration.task import Task
from fewstep.graph.session import open_session
from fewstep.lowering.quantize import lower_graph
from fewstep.lowering.scheme import Target
from fewstep.ranges.observe import open_watched
from fewstep.ranges.table import RangesTable
from fewstep.rollouts.row_by_row import row_by_row
from fewstep.runtime.progress import SILENT, Progress

PASSES = 2


def body_corrections(task: Task, table: RangesTable, target: Target, progress: Progress = SILENT) -> Corrections:
    """What to add to the layers of an int8 body, by group, from both graphs on the float denoiser's inputs along the
    plan.

    PASSES of them: the second measures what is left once earlier layers are corrected.
    """
    lowered, ops, _ = lower_graph(task.prepared, table, with_sums(target))
    names = tuple(op.name for op in ops)
    exact, edged = open_watched(task.prepared, names), replace(task, edges=table.groups)
    corrections: Corrections = {}
    for _ in range(PASSES):
        graph = correct(lowered, ops, corrections)
        int8 = row_by_row(open_session(graph, names, optimize=True), graph.inputs)
        shifts = Shifts(ops, len(table.groups) + 1)
        for evaluation in evaluations(edged, exact, "deployed", progress, batch_of(task, names)):
            group = edged.group(evaluation.state.step)
            shifts.add(evaluation.tensors, in_group(int8, group)(evaluation.feeds), group)
        left = shifts.corrections()
        corrections = {name: left[name] + corrections.get(name, 0.0) for name in names}
    return corrections
