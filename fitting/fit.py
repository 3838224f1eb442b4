"""The verb that fits the numbers of a plan to a deployed body, so that its samples come nearest to the teacher's.

Nothing is trained and no gradient is needed: the deployed graph is called along rollouts, on any backend. Seeds of the
fit, of its choices and of its judgement are disjoint. The nominal plan is kept where the gain does not count.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from time import perf_counter

import msgspec
import numpy as np

from fewstep.evaluation.output import write_whole
from fewstep.evaluation.results import TEACHER_MARGIN, TeacherCheck
from fewstep.evaluation.teacher import CHECKED, Sample, Teacher, checked_teacher, teacher_plan
from fewstep.fitting.blocks import BLOCK, FIT_SEEDS
from fewstep.fitting.ending.energy import Energy
from fewstep.fitting.ending.former import price_of_energy, price_of_features
from fewstep.fitting.ending.residual import FeatureResidual
from fewstep.fitting.ending.sets import SetDistances, set_distances
from fewstep.fitting.ending.span import span_psnr
from fewstep.fitting.ending.step_back import StepBack
from fewstep.fitting.endpoint import Gain
from fewstep.fitting.options import FitOptions
from fewstep.fitting.recurrence import plan_of
from fewstep.fitting.search import Found, checkpoint_of_search, search, taught
from fewstep.fitting.task import FitTask, open_task
from fewstep.graph.commit import Writer, open_for_update
from fewstep.plans.errors import UserError
from fewstep.plans.file import encode
from fewstep.plans.guidance import as_guidance
from fewstep.plans.name import with_steps
from fewstep.plans.plan import Fitted, Plan
from fewstep.rollouts.conditions_file import ConditionRecords
from fewstep.rollouts.held_out import PAIRED
from fewstep.rollouts.metrics import psnr
from fewstep.runtime.bundle.fit_command import weight_of_fit
from fewstep.runtime.bundle.manifest import FittedPlan
from fewstep.runtime.bundle.reading import Bundle, open_bundle
from fewstep.runtime.execute import Array
from fewstep.runtime.fitted_plans import FITTED, readable
from fewstep.runtime.progress import SILENT, Progress
from fewstep.runtime.sampler import Sampler
from fewstep.workers.opening import opened

CHANCE = 1.0  # dB between means over the seeds of a check that may be chance
SPANNED = 2  # blocks of the judge seeds that the limit of all coefficients is taken on


@dataclass(frozen=True)
class FitResult:
    """What a fit found. `plan` is None where the nominal plan is as good, or a former fitted one is better.

    nominal_psnr: mean PSNR of the nominal plan against the teacher on the judge seeds, in dB. on_fit, on_selection,
    on_judge: what the fitted plan gains over it. over_former: what it gains on the judge seeds over the fitted plan
        that the bundle has for the same use; None without one. back, energy: None for methods other than `end`, and
        where nothing gained. sets: FD on the judge seeds. back, sets: None without an extractor.
    span_psnr: a limit for all coefficients with the predictions of the fitted plan, in dB. It is taken on the first of
        the judge seeds, where the plan itself has span_fitted.
    told, nominal_told: the times that the network is told.
    weak_teacher: the reason why the bundle does not keep the plan, with the teacher to take; None where it suffices.
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
    back: StepBack | None
    residual: FeatureResidual | None
    energy: Energy | None
    sets: SetDistances | None
    span_fitted: float
    span_psnr: float
    judge_seeds: int
    iterations: int
    numbers: int
    seconds: float
    told: tuple[float, ...]
    nominal_told: tuple[float, ...]
    plan: Plan | None
    weak_teacher: str | None = None

    @property
    def is_kept(self) -> bool:
        """Whether the plan is in the bundle."""
        return self.plan is not None and self.weak_teacher is None


def fit(options: FitOptions, progress: Progress = SILENT) -> FitResult:
    """Fit a plan and keep it in its bundle.

    A teacher that was asked for has to be nearer to the exact trajectory than the plan that a new one would replace.
    Without an output that is a UserError before the fit; with one the plan is written there, and not kept.

    An interrupted fit goes on from its best numbers when the same command comes again. The work does not hold the
    bundle's lock; if the body changes meanwhile, nothing is written.
    """
    started = perf_counter()
    task = open_task(options)
    with opened(options.workers, options.dask, threads=options.threads) as workers:
        return _fitted(replace(task, rolled=replace(task.rolled, workers=workers)), options, started, progress)


def _fitted(task: FitTask, options: FitOptions, started: float, progress: Progress) -> FitResult:
    sampled, nominal = _once(task.reference), task.starts.nominal[0]
    first = _checked(task, options.teacher or None, nominal, sampled, progress)
    task = replace(task, teacher=first.plan)
    replaced, known = nominal.name, first.check  # the plan whose place a new one takes, beside the teacher
    former = former_plan(task, nominal)
    if former is not None and known.exactness is not None:
        plain = msgspec.structs.replace(former, fitted=None)  # the float32 body runs it, with nothing to warn of
        replaced, known = former.name, _checked(task, first.plan.name, plain, sampled, progress).check
    weak = None
    if options.teacher and _fails(first.check):
        weak = _weak(task, options, nominal.name, first.check)
    elif options.teacher and _fails(known):
        weak = _weak(task, options, replaced, known)
    if weak is not None and options.output is None:
        raise UserError(*weak)
    for found in search(task, options, progress):
        best = found
    check = first.check
    if check.exactness is not None:  # it was chosen before anything was near it: is it nearer than the best plan too?
        check = _checked(task, first.plan.name, plan_of(best.numbers), sampled, progress).check
    if weak is None and _fails(check) and _is_behind(check, known):
        weak = _weak(task, options, replaced, known)
    result = replace(
        _judged(task, options, best, check, started, progress), weak_teacher=None if weak is None else "; ".join(weak)
    )
    if result.is_kept:
        _commit(task, options, result)
    if result.plan is not None and options.output is not None:
        write_whole(options.output, encode(result.plan))
    checkpoint_of_search(task, options, best).drop()
    return result


def _fails(check: TeacherCheck) -> bool:
    """Whether twice as many steps showed that the teacher is too near to the plan beside it."""
    return check.exactness is not None and not check.suffices


def _is_behind(check: TeacherCheck, known: TeacherCheck) -> bool:
    """Whether a plan is further from twice the teacher's steps than the known one, by more than chance."""
    return check.judged is not None and known.judged is not None and check.judged + CHANCE < known.judged


def _weak(task: FitTask, options: FitOptions, replaced: str, known: TeacherCheck) -> tuple[str, str]:
    """The weakness of the teacher beside the plan that would be replaced, and the teacher to take."""
    nearer = f"less than {TEACHER_MARGIN:g} dB nearer than {replaced} with {known.judged:.1f} dB"
    name = teacher_plan(task.reference, None, task.starts.nominal[0]).name
    if options.teacher and name != known.teacher:
        fix = f"leave --teacher out, which takes {name} or more steps"
    else:
        fix = f"give --teacher {with_steps(known.teacher, 2 * len(task.teacher.steps))}"
    return f"the teacher {known.teacher} is {known.exactness:.1f} dB from twice as many steps, {nearer}", fix


def _checked(task: FitTask, asked: str | None, plan: Plan, sampled: Sample, progress: Progress) -> Teacher:
    """The teacher beside a plan, on seeds of the fit: none of the judge's."""
    return checked_teacher(task.reference, asked, plan, FIT_SEEDS[:CHECKED], task.rows.fit, progress, sampled)


def _once(sampler: Sampler) -> Sample:
    """Samples of a few seeds, which are the same at each call: those of a plan are made once."""
    made: dict[bytes, Array] = {}

    def sampled(plan: Plan, seeds: Sequence[int], conditions: ConditionRecords) -> Array:
        key = encode(plan)
        if key not in made:
            made[key] = sampler.sample(plan, seeds, conditions)
        return made[key]

    return sampled


def _judged(
    task: FitTask, options: FitOptions, best: Found, check: TeacherCheck, started: float, progress: Progress
) -> FitResult:
    """The gain on held-out seeds. There is no plan without a gain that counts. Nor is there one that is behind a former
    plan by more than the price of stages whose gain that one lacks."""
    rolled, nominal, manifest = task.rolled, best.nominal, task.bundle.manifest
    judges = taught(task, PAIRED[: options.judge_seeds], task.rows.judge, "teacher of the judgement", progress)
    fitted = Fitted(nominal.name, task.body, task.graph, manifest.provenance.source_sha256, options.method)
    plan = msgspec.structs.replace(plan_of(best.numbers, f"{FITTED}{options.steps}"), fitted=fitted)
    exact = np.concatenate([block.taught for block in judges])
    plain, made = (np.concatenate(list(rolled.samples(each, judges))) for each in (nominal, plan))
    was, found = psnr(plain, exact), psnr(made, exact)
    on_selection = Gain.of(rolled.qualities(plan, best.seeds.selection), best.before.selection)
    on_judge = Gain.of(found, was)
    former = former_plan(task, plan)
    over_former, price = None, 0.0
    if former is not None:
        known = np.concatenate(list(rolled.samples(former, judges)))
        over_former = Gain.of(found, psnr(known, exact))
        price = price_of_features(best.price, task.extractor, known, made, exact)
        price += price_of_energy(known, exact) if options.method == "end" else 0.0
    is_kept = on_judge.counts and on_selection.counts and (over_former is None or over_former.mean >= -price)
    return FitResult(
        bundle=manifest.name,
        body=task.body,
        nominal=nominal.name,
        teacher=task.teacher.name,
        check=check,
        nominal_psnr=float(was.mean()),
        on_fit=Gain.of(rolled.qualities(plan, best.seeds.fit), best.before.fit),
        on_selection=on_selection,
        on_judge=on_judge,
        over_former=over_former,
        back=best.back,
        residual=best.residual,
        energy=best.energy,
        sets=None if task.extractor is None else set_distances(task.extractor, plain, made, exact),
        span_fitted=float(found[: SPANNED * BLOCK].mean()),
        span_psnr=span_psnr(task.sampler, plan, judges[:SPANNED]),
        judge_seeds=options.judge_seeds,
        iterations=best.done,
        numbers=len(best.free),
        seconds=perf_counter() - started,
        told=tuple(best.numbers.told.tolist()),
        nominal_told=tuple(step.time for step in nominal.steps),
        plan=plan if is_kept else None,
    )


def former_plan(task: FitTask, plan: Plan) -> Plan | None:
    """The plan that was fitted to this very graph for the same use."""
    own = (entry for entry in task.bundle.manifest.fitted if entry.body == task.body)
    for known in readable(task.bundle, own)[0]:
        if known.fitted is not None and known.fitted.graph == task.graph and _use(known) == _use(plan):
            return known
    return None


def _commit(task: FitTask, options: FitOptions, result: FitResult) -> None:
    """Keep the plan in the bundle."""
    assert result.plan is not None
    with open_for_update(options.bundle, must_exist=True, verb="fit") as writer:
        bundle = open_bundle(options.bundle)
        body = bundle.manifest.bodies.get(task.body)
        if body is None or bundle.manifest.files[body.graph.file] != task.graph:
            raise UserError(f"{task.body} of {options.bundle} was changed while a plan was fitted", "fit it again")
        keep(writer, bundle, result, result.plan, options.command("fit"))


def keep(writer: Writer, bundle: Bundle, result: FitResult, plan: Plan, command: str) -> None:
    """Add a fitted plan to a bundle that is open for update, in the place of one for the same use."""
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
    others = (each for each in manifest.fitted if each.body != entry.body or _use_of(bundle, each) != _use(plan))
    commands = (*(each for each in manifest.provenance.commands if each != command), command)
    provenance = msgspec.structs.replace(manifest.provenance, commands=commands)
    writer.commit(msgspec.structs.replace(manifest, fitted=(*others, entry), provenance=provenance))


def _use(plan: Plan) -> tuple[object, ...]:
    """All that a caller asks for who finds a fitted plan of a body."""
    return len(plan.steps), plan.guidance, plan.strength, {step.shaping for step in plan.steps}


def _use_of(bundle: Bundle, entry: FittedPlan) -> tuple[object, ...]:
    """That of a plan in a bundle; of one whose file is lost, as far as is known."""
    plans, lost = readable(bundle, [entry])
    weight = weight_of_fit(bundle.path, bundle.manifest, entry) if lost else None
    return (entry.evaluations, as_guidance(weight), None, {None}) if lost else _use(plans[0])
