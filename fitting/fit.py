"""Fit the numbers of a plan to a deployed body, so that its samples are as near as possible to the teacher's.

A fit trains no network and needs no gradients: it calls the deployed graph along rollouts, on any backend. The seeds of
the fit, of its choices and of its judgement are disjoint. A plan is added to the bundle only if its gain is larger than
chance.
"""

from concurrent.futures import Executor
from dataclasses import replace
from time import perf_counter

import msgspec

from fewstep.fitting.cost import estimate_fit
from fewstep.fitting.fit_result import FitResult, keep_for_same_body
from fewstep.fitting.judgement import judge_fit
from fewstep.fitting.levenberg_marquardt import Gain
from fewstep.fitting.options import FitOptions
from fewstep.fitting.recurrence import build_plan
from fewstep.fitting.requirements import BODY
from fewstep.fitting.search import open_search_checkpoint, sample_teacher_blocks, search
from fewstep.fitting.task import FitTask, open_fit_task
from fewstep.fitting.teacher_gate import check_teacher
from fewstep.graph.files.commit import open_for_update
from fewstep.graph.files.output_files import write_atomic
from fewstep.measure.judges.trial import try_judge
from fewstep.measure.rollouts.seeds import PAIRED
from fewstep.plans.errors import UserError
from fewstep.plans.file import encode
from fewstep.plans.names.plan_reference import FittedReference
from fewstep.plans.plan import Fitted
from fewstep.runtime.progress import SILENT, Progress


def fit(options: FitOptions, progress: Progress = SILENT, workers: Executor | None = None) -> FitResult:
    """Fit a plan and store it in its bundle. The caller's `workers`, if given, are used instead of those that the
    options request.

    The teacher `options.teacher` must be nearer to the exact trajectory than the stored plan that the new one would
    replace. Otherwise UserError is raised before the fit, and nothing is stored, unless `options.output` names a file
    for the plan.

    An interrupted fit resumes from the best coefficients and times found when the same command runs again. The fit does
    not hold the bundle's lock. If the body changes meanwhile, nothing is written.
    """
    started = perf_counter()
    task = open_fit_task(options)
    estimate_fit(task).announce()
    if task.judge is not None:
        try_judge(task.judge, task.rolled.reference, task.starts.nominal[0], task.conditions.judge)
    with options.start_workers(workers) as pool:
        return _run_fit(replace(task, rolled=replace(task.rolled, workers=pool)), options, started, progress)


def _run_fit(task: FitTask, options: FitOptions, started: float, progress: Progress) -> FitResult:
    """Run a fit in three steps: check the teacher, search for the coefficients and times, compare the resulting plan
    with the teacher."""
    gate = check_teacher(task, progress)
    if gate.is_shut and options.output is None:
        raise UserError(gate.reason, gate.fix)
    task = replace(task, teacher=gate.teacher)

    *_, best = search(task, progress)  # the last numbers are the best ones, after the trade

    rolled, nominal, provenance = task.rolled, best.nominal, task.bundle.manifest.provenance
    fitted = Fitted(nominal.name, BODY, task.graph, provenance.source_sha256)
    plan = msgspec.structs.replace(build_plan(best.numbers, f"{FittedReference(options.steps)}"), fitted=fitted)
    check = gate.check_fitted(build_plan(best.numbers))
    judge_seeds = PAIRED[: options.judge_seeds]
    blocks = sample_teacher_blocks(task, judge_seeds, task.conditions.judge, "teacher of the judgement", progress)
    previous = None if task.previous is None else task.previous.plan
    price = 0.0 if best.trade is None else best.trade.price
    judged = judge_fit(rolled, task.extractor, blocks, nominal, plan, previous, price, task.judge)
    on_selection = Gain.from_psnr(rolled.measure_psnr(plan, best.seeds.selection), best.nominal_psnr.selection)
    is_better = judged.is_better(on_selection)
    result = FitResult(
        bundle=task.bundle.manifest.name,
        body=BODY,
        nominal=nominal.name,
        teacher=task.teacher.name,
        check=check,
        nominal_psnr=judged.nominal_psnr,
        on_fit=Gain.from_psnr(rolled.measure_psnr(plan, best.seeds.fit), best.nominal_psnr.fit),
        on_selection=on_selection,
        on_judge=judged.gain,
        over_previous=judged.over_previous,
        trade=best.trade,
        features=None if task.extractor is None else task.extractor.name,
        sets=judged.sets,
        score=judged.score,
        judge_seeds=options.judge_seeds,
        iterations=best.done,
        numbers=len(best.free),
        seconds=perf_counter() - started,
        times=tuple(best.numbers.times.tolist()),
        nominal_times=tuple(step.time for step in nominal.steps),
        plan=plan if is_better else None,
        weak_teacher=f"{gate.reason}; {gate.fix}" if gate.is_shut_after(check) else None,
    )
    if result.is_kept:
        with open_for_update(options.bundle, must_exist=True, verb="fit") as writer:
            keep_for_same_body(writer, task.graph, result, options.command_line("fit"))
    if result.plan is not None and options.output is not None:
        write_atomic(options.output, encode(result.plan))
    open_search_checkpoint(task, best).drop()
    return result
