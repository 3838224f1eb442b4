"""Fit the numbers of a plan to a deployed body, so that its samples are as near as possible to the teacher's.

A fit trains no network and needs no gradients: it calls the deployed graph along rollouts, on any backend. The seeds of
the fit, of its choices and of its judgement are disjoint. A plan is added to the bundle only if its gain is larger than
chance.
"""

from concurrent.futures import Executor
from dataclasses import dataclass, replace
from time import perf_counter

import msgspec

from fewstep.fitting.cost import estimate_fit
from fewstep.fitting.feature_tradeoff import Trade
from fewstep.fitting.judgement import judge_fit
from fewstep.fitting.levenberg_marquardt import ERRORS, Gain
from fewstep.fitting.options import FitOptions
from fewstep.fitting.recurrence import build_plan
from fewstep.fitting.requirements import BODY
from fewstep.fitting.search import open_search_checkpoint, sample_teacher_blocks, search
from fewstep.fitting.task import FitTask, open_fit_task
from fewstep.fitting.teacher_gate import check_teacher, find_former_fit, use_of, use_of_entry
from fewstep.graph.files.commit import Writer, open_for_update
from fewstep.graph.files.output_files import write_atomic
from fewstep.measure.distances.frechet import SetComparison
from fewstep.measure.rollouts.seeds import PAIRED
from fewstep.measure.teacher import TeacherCheck
from fewstep.plans.errors import UserError
from fewstep.plans.file import encode
from fewstep.plans.names.plan_reference import FittedReference
from fewstep.plans.plan import Fitted, Plan
from fewstep.runtime.bundle.manifest import FittedPlan
from fewstep.runtime.bundle.reading import Bundle
from fewstep.runtime.progress import SILENT, Progress
from fewstep.runtime.sampling.fitted_plans import graph_of_fit


@dataclass(frozen=True)
class FitResult:
    """The result of a fit.

    check: the distances of the teacher and of the fitted plan from the exact trajectory.
    nominal_psnr: mean PSNR of the nominal plan against the teacher on the judge seeds, in dB.
    on_fit, on_selection, on_judge: gains of the fitted plan over the nominal one, on the three sets of seeds.
    over_former: the gain of the fitted plan on the judge seeds over the bundle's former plan for the same use; None if
        there is no former plan.
    trade: the trade for features and energy; None if no step gained.
    features: the name of the extractor that `sets` uses; None without an extractor.
    sets: FD of the fitted plan from the teacher on the judge seeds, paired with the nominal plan.
    iterations: steps of the search that gained, including those before an interruption.
    numbers: the count of free numbers.
    times, nominal_times: the times that the network receives.
    plan: the fitted plan; None if the nominal plan is as good, or a former fitted plan is better.
    weak_teacher: why the bundle does not keep the plan, and which teacher to use; None if the teacher suffices.
    """

    bundle: str
    body: str
    nominal: str
    teacher: str
    check: TeacherCheck
    nominal_psnr: float
    on_fit: Gain
    on_selection: Gain
    on_judge: Gain
    over_former: Gain | None
    trade: Trade | None
    features: str | None
    sets: SetComparison | None
    judge_seeds: int
    iterations: int
    numbers: int
    seconds: float
    times: tuple[float, ...]
    nominal_times: tuple[float, ...]
    plan: Plan | None
    weak_teacher: str | None = None

    @property
    def are_sets_further(self) -> bool:
        """True if the fitted plan is further from the teacher than the nominal one by more than chance."""
        return self.sets is not None and self.sets.difference > ERRORS * self.sets.error

    @property
    def is_kept(self) -> bool:
        """True if the bundle keeps the plan."""
        return self.plan is not None and self.weak_teacher is None


def fit(options: FitOptions, progress: Progress = SILENT, workers: Executor | None = None) -> FitResult:
    """Fit a plan and keep it in its bundle. The caller's `workers`, if given, replace those of the options.

    The teacher of `options.teacher` must be nearer to the exact trajectory than the plan that a new plan would replace.
    Otherwise the bundle keeps no plan, and UserError is raised before the fit, unless `options.output` names a file for
    the plan.

    An interrupted fit resumes from its best numbers when the same command runs again. The fit does not hold the
    bundle's lock. If the body changes meanwhile, nothing is written.
    """
    started = perf_counter()
    task = open_fit_task(options)
    estimate_fit(task).announce()
    with options.start_workers(workers) as pool:
        return _run_fit(replace(task, rolled=replace(task.rolled, workers=pool)), options, started, progress)


def _run_fit(task: FitTask, options: FitOptions, started: float, progress: Progress) -> FitResult:
    """Run a fit in three steps: check the teacher, search the numbers, judge the plan."""
    gate = check_teacher(task, progress)
    if gate.is_shut and options.output is None:
        raise UserError(gate.reason, gate.fix)
    task = replace(task, teacher=gate.teacher)

    *_, best = search(task, progress)  # the last numbers are the best ones, after the trade

    rolled, nominal, provenance = task.rolled, best.nominal, task.bundle.manifest.provenance
    fitted = Fitted(nominal.name, BODY, task.graph, provenance.source_sha256)
    plan = msgspec.structs.replace(build_plan(best.numbers, f"{FittedReference(options.steps)}"), fitted=fitted)
    is_checked = gate.before.exactness is not None  # otherwise no plan has twice the teacher's steps
    check = gate.check_against(build_plan(best.numbers)) if is_checked else gate.before
    judge_seeds = PAIRED[: options.judge_seeds]
    blocks = sample_teacher_blocks(task, judge_seeds, task.conditions.judge, "teacher of the judgement", progress)
    _, former = find_former_fit(task, plan) or (None, None)
    price = 0.0 if best.trade is None else best.trade.price
    judged = judge_fit(rolled, task.extractor, blocks, nominal, plan, former, price)
    on_selection = Gain.from_psnr(rolled.measure_psnr(plan, best.seeds.selection), best.nominal_psnr.selection)
    is_better = judged.gain.is_significant and on_selection.is_significant and not judged.is_behind_former
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
        over_former=judged.over_former,
        trade=best.trade,
        features=None if task.extractor is None else task.extractor.name,
        sets=judged.sets,
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
        _keep_for_same_body(task, options, result)
    if result.plan is not None and options.output is not None:
        write_atomic(options.output, encode(result.plan))
    open_search_checkpoint(task, best).drop()
    return result


def _keep_for_same_body(task: FitTask, options: FitOptions, result: FitResult) -> None:
    """Open the bundle again and add the plan. Raises UserError if the body has changed since the fit began."""
    assert result.plan is not None
    with open_for_update(options.bundle, must_exist=True, verb="fit") as writer:
        bundle = options.open()
        if graph_of_fit(bundle.manifest, BODY) != task.graph:
            raise UserError(f"the body {BODY} of {options.bundle} changed during the fit", "fit it again")
        keep_plan(writer, bundle, result, result.plan, options.command_line("fit"))


def keep_plan(writer: Writer, bundle: Bundle, result: FitResult, plan: Plan, command: str) -> None:
    """Add a fitted plan to a bundle that is open for update, replace a plan for the same use, and commit."""
    manifest = bundle.manifest
    entry = FittedPlan(
        evaluations=len(plan.steps),
        body=result.body,
        file=writer.add(encode(plan), "plans", f"fitted-{len(plan.steps)}-{result.body}", ".json"),
        nominal=result.nominal,
        teacher=result.teacher,
        nominal_psnr=round(result.nominal_psnr, 3),
        psnr=round(result.nominal_psnr + result.on_judge.mean, 3),
        error=round(result.on_judge.error, 3),
        seeds=result.judge_seeds,
    )
    others = (each for each in manifest.fitted if each.body != entry.body or use_of_entry(bundle, each) != use_of(plan))
    commands = (*(each for each in manifest.provenance.commands if each != command), command)
    provenance = msgspec.structs.replace(manifest.provenance, commands=commands)
    writer.commit(msgspec.structs.replace(manifest, fitted=(*others, entry), provenance=provenance))
