"""`fewstep choose`: compare every body that runs on this machine along several plans, and choose one within limits on
time and quality."""

import logging
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cache as cache_of
from functools import partial

import numpy as np

from fewstep.graph.resource_needs import check_memory
from fewstep.measure.open_body import open_body
from fewstep.measure.rollouts.conditions_file import describe_seen_records
from fewstep.measure.rollouts.plan_selection import select_plan
from fewstep.measure.sampling import FLOAT
from fewstep.measure.teacher import select_teacher_plan
from fewstep.plans.errors import UserError
from fewstep.plans.guidance import describe, to_text
from fewstep.plans.plan import Plan
from fewstep.report.choosing.bodies_in_memory import BodiesInMemory, find_bodies_in_memory
from fewstep.report.choosing.budget import Budget, choose_by_budget
from fewstep.report.choosing.companion_times import companion_graphs, companion_timer
from fewstep.report.choosing.cost import estimate, estimate_needs, select_tried
from fewstep.report.choosing.deployment_judge import DeploymentJudge, find_teacher_plan
from fewstep.report.choosing.deployment_plans import compile_plans, describe_noise
from fewstep.report.choosing.deployment_times import measure_unit, timed_sizes
from fewstep.report.choosing.deployments import measure_deployments, pareto_front
from fewstep.report.choosing.engines import BACKENDS, REFERENCE, find_fastest_engine, runnable_bodies
from fewstep.report.choosing.int8_speedup import describe_small_speedup
from fewstep.report.choosing.options import ChooseOptions
from fewstep.report.choosing.saved_choice import UNPACK, Deployment, SavedChoice, save_choice
from fewstep.report.choosing.time_notes import describe_times
from fewstep.report.choosing.usable_plans import without_useless_plans
from fewstep.runtime.bundle.reading import Bundle
from fewstep.runtime.bundle.unsuited_bodies import describe_unsuited
from fewstep.runtime.kinds.companions import DECODER
from fewstep.runtime.machine.memory import held_bytes
from fewstep.runtime.progress import SILENT, Progress

LOG = logging.getLogger("fewstep")


@dataclass(frozen=True)
class Choice:
    """All deployments, the Pareto front, and the winner; `chosen` is None if no budget was given."""

    deployments: tuple[Deployment, ...]
    front: tuple[Deployment, ...]
    chosen: SavedChoice | None
    teacher: str
    seeds: int
    left_out: tuple[str, ...]  # sentences on plans and bodies that cannot be compared, or that no engine here runs
    has_teacher: bool = True  # False for a student of few steps, whose reference is float32 along its own plan
    sizes: Mapping[str, int] = field(default_factory=dict)  # the free sizes of the samples that were timed
    notes: tuple[str, ...] = ()  # on conditions that were not varied, and int8 that loses something on this CPU


class NoneWithinLimits(UserError):
    """No deployment meets the limits on time and quality. `choice` has all that were measured, and no winner."""

    def __init__(self, error: UserError, choice: Choice) -> None:
        super().__init__(error.what, error.fix)
        self.choice = choice


def choose(options: ChooseOptions, progress: Progress = SILENT) -> Choice:
    """Compare with the teacher and time all bodies that run on this machine, with several plans, and choose the best
    within the limits on time and quality. Raises NoneWithinLimits if none meets them."""
    base = held_bytes()  # before the float32 network is in memory, as in the process of a run
    judging = open_judging(options, progress)
    judge, limits = judging.judge, (options.within, options.at_least, options.milliseconds, options.decibels)
    check_memory(estimate_needs(judging.bundle, judging.plan, judging.batch), options.bundle)
    tried, fits = plans_by_body(judging, options.plan), BodiesInMemory({}, {})
    if (memory := options.memory_bytes) is not None:
        fits = find_bodies_in_memory(judging.bundle, tried, memory, base, judging.plan, judging.batch, options.threads)
        tried = {body: tried[body] for body in fits.plans}
    backends = BACKENDS if memory is None else (REFERENCE,)  # whose memory is planned
    expected = partial(estimate, judging, tried, options.threads, options.milliseconds)
    judging.try_judge()
    judging = replace(judging, teacher=find_teacher_plan(judging, expected))
    tried, useless = without_useless_plans(judging, tried)
    rows, errors = list[Deployment](), dict[str, UserError](fits.too_large)
    time_once = companion_timer(judging.bundle, options.threads)
    unit_of = cache_of(partial(measure_unit, judging))
    for body, plans in tried.items():
        try:
            engine = find_fastest_engine(
                judging.bundle, body, judging.most_rows, options.threads, judging.fewest_rows, backends
            )
            short = select_tried(plans, engine.milliseconds or 0.0, judging, options.milliseconds)
            rows += measure_deployments(judging, body, engine, short, unit_of)
        except UserError as error:  # bodies without an engine, or whose samples are not finite
            errors[body] = error
    left_out = (*useless, *(f"{body} is left out: {error}" for body, error in errors.items()))
    if not rows:
        for line in left_out[1:]:
            LOG.info("%s", line)
        first = next(iter(errors.values()), UserError(f"no plan of {options.bundle} was tried", "give --plan"))
        raise UserError(f"no body to choose: {first.what}", first.fix)
    ordered = tuple(sorted(rows, key=lambda row: row.milliseconds))
    unsuited = (describe_unsuited(judging.bundle, body) for body in dict.fromkeys(row.body for row in ordered))
    times = describe_times(judging.bundle, ordered, time_once)
    said = (*_describe_decoders(judging.bundle, ordered), *times, *_compare_with_bf16(judging, rows, options.threads))
    notes = (*judging.notes, *describe_noise(judging, options.plan), *fits.notes, *filter(None, unsuited), *said)
    reference, has_teacher = judging.reference_plan.name, judging.teacher is not None
    front = tuple(pareto_front(rows))
    choice = Choice(ordered, front, None, reference, options.seeds, left_out, has_teacher, timed_sizes(judging), notes)
    if not options.is_limited:
        return choice
    companions = {} if options.within is None else _time_companions(judging.bundle, rows, options.batch, time_once)
    budget = Budget(*limits, None if judge is None else judge.name, companions, options.memory)
    try:
        chosen = choose_by_budget(judging.bundle, budget, options.batch, judging.plan, rows)
    except UserError as error:
        raise NoneWithinLimits(error, choice) from error
    given = options.command_line("choose", keeps_folders=True).partition("BUNDLE")[2].strip()
    return replace(choice, chosen=save_choice(judging.bundle, chosen, given, () if judge is None else judge.files))


def _describe_decoders(bundle: Bundle, rows: Sequence[Deployment]) -> Iterator[str]:
    """Yield a sentence on each body with its own decoder, whose error the compared samples do not have."""
    for name in dict.fromkeys(row.body for row in rows):
        body = bundle.body(name)
        if DECODER not in body.replaces:
            continue
        measured = [trial.picture_psnr for trial in body.trials if trial.picture_psnr is not None]
        pictures = f"; by its calibration its pictures have {measured[-1]:.1f} dB" if measured else ""
        yield f"{name}: its latents are compared, without the error of its own decoder{pictures}"


def _time_companions(
    bundle: Bundle, rows: Sequence[Deployment], batch: int, time_once: Callable[[str], float | None]
) -> dict[str, float]:
    """Return the milliseconds of the text encoder and the decoder for a batch, for each body that has any. Logs a
    warning if they cannot be timed."""
    times = {body: time_once(body) for body in dict.fromkeys(row.body for row in rows)}
    if None in times.values() and companion_graphs(bundle.manifest):
        LOG.warning("encoding and decoding could not be timed here, so that --within is the time of sampling alone")
    return {body: batch * time for body, time in times.items() if time is not None}


def _compare_with_bf16(judging: DeploymentJudge, rows: Sequence[Deployment], threads: int) -> tuple[str, ...]:
    """Return a sentence, as a tuple of one, if the fastest int8 body is hardly faster than float32 computed in
    bfloat16, which needs no calibration. Otherwise return an empty tuple."""
    int8 = [row for row in rows if row.precision == "int8" and row.engine.milliseconds is not None]
    if not int8:
        return ()
    best = min(int8, key=lambda row: row.engine.milliseconds or np.inf)
    said = describe_small_speedup(judging.bundle, best.body, best.engine, judging.most_rows, threads)
    return () if said is None else (said,)


def open_judging(options: ChooseOptions, progress: Progress = SILENT) -> DeploymentJudge:
    """Open the float32 body and the measures with which deployments are compared. Raises UserError for a bundle that
    cannot be judged."""
    bundle = options.open()
    bundle.check_continuous("choose")
    if FLOAT not in bundle.manifest.bodies:
        raise UserError(f"{options.bundle} has no float32 body to compare with", UNPACK)
    reference = open_body(bundle, FLOAT, options.threads)
    plan = select_plan(reference.plans, reference.body, guidance=options.guidance)
    if plan.guidance is not None and to_text(plan.guidance) is None:
        form = describe(plan.guidance)
        raise UserError(
            f"the calibrated plan's guidance is {form}, which `fewstep run` has no option for", "give --guidance"
        )
    given = options.held_out_conditions(bundle)
    return DeploymentJudge(
        bundle=bundle,
        reference=reference,
        plan=plan,
        teacher=select_teacher_plan(reference, options.teacher, plan),
        teacher_reference=options.teacher,
        records=given.records,
        notes=(*given.notes, *describe_seen_records(bundle.manifest.bodies, given.records)),
        prompts=given.prompts,
        count=options.seeds,
        batch=options.batch,
        progress=progress,
        judge=options.open_judge(bundle),
    )


def plans_by_body(judging: DeploymentJudge, names: Sequence[str]) -> dict[str, dict[str, Plan]]:
    """Return the plans that each body can run, by body name and plan name. Bodies without any are left out. Raises
    UserError for a name that is not a plan of any body."""
    plans = {body: compile_plans(judging, body, names) for body in runnable_bodies(judging.bundle)}
    for name in names:
        if not any(name in own for own in plans.values()):
            raise UserError(f"no body of {judging.bundle.path} has the plan {name!r}", "leave it out, or fit it")
    return {body: own for body, own in plans.items() if own}
