"""A choice of the operations in float in each body of a task: runs of the task's plan say what each one costs."""

from dataclasses import replace
from functools import cache

from fewstep.calibration.calibrated_body import Spare
from fewstep.calibration.lowering.quantize import measured_ops
from fewstep.calibration.precision.operation_errors import operation_errors
from fewstep.calibration.precision.ranking import ranked
from fewstep.calibration.precision.sparing import default_count, times_in_float
from fewstep.calibration.precision.variants import Variants
from fewstep.calibration.task import Task
from fewstep.graph.io import exceeds
from fewstep.measure.rollouts.course import Course, open_course
from fewstep.measure.rollouts.on_demand import close
from fewstep.measure.rollouts.row_by_row import body_by_rows
from fewstep.measure.rollouts.seeds import OPERATION_SEEDS
from fewstep.plans.any_plan import AnyPlan
from fewstep.plans.arguments import check_compiled
from fewstep.runtime.progress import SILENT, Progress, under


def sparing_for(task: Task, plan: AnyPlan, progress: Progress = SILENT) -> Spare:
    """A rule for the operations that stay in float, since they make much of the error. `plan` has the counts' groups.

    Samples of tokens have no squared error: there only those stay that int8 makes slower. Engines without floats have
    all in int8.
    """
    if task.sampler.bundle.manifest.vocabulary is not None:
        return without_slower
    numbers = check_compiled(plan)

    @cache
    def course() -> Course:
        seeds = OPERATION_SEEDS[: len(task.seeds)]
        sampler = task.among(body_by_rows(task.sampler))
        opened = open_course(
            sampler, numbers, seeds, task.conditions, under(progress, "errors of operations"), task.network
        )
        close(task.sampler.network().graph)
        return opened

    def spare(variants: Variants) -> Variants:
        target, prepared = variants.target, variants.prepared
        if target.scheme.everything:
            return variants
        own = variants if exceeds(prepared) else variants.having(())  # weights that are rounded once
        quantizer = None if exceeds(prepared) else own.parts[0].quantize
        errors = operation_errors(prepared, variants.table, target, course(), quantizer)
        ranking = ranked(errors, times_in_float(prepared, errors.operations, without_slower(variants).in_float))
        return replace(own, in_float=ranking.first(default_count(ranking)), ranking=ranking)

    return spare


def without_slower(variants: Variants) -> Variants:
    """The operations that int8 makes slower stay in float."""
    ops = measured_ops(variants.prepared, variants.table, variants.target.scheme)
    slower = variants.target.slower(variants.prepared, ops)
    return replace(variants, in_float=tuple(op.name for op in ops if op.name in slower))
