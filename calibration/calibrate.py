"""`fewstep calibrate`: measure a bundle along the plan it will run, and lower its body to int8 for each target."""

import logging
from collections.abc import Collection, Mapping
from contextlib import suppress
from dataclasses import dataclass, replace
from functools import partial
from itertools import chain
from math import inf
from pathlib import Path

from fewstep.calibration.checkpoint import checkpoint_of
from fewstep.calibration.choosing.first_inputs import FirstInputs, first_inputs
from fewstep.calibration.choosing.thin import thin_convolutions
from fewstep.calibration.choosing.trials import Chosen, Ways, choose_each, courses_for
from fewstep.calibration.commit import commit
from fewstep.calibration.count import count_activations, tabulate
from fewstep.calibration.failed_bodies import body_of, overflowing, some_failed
from fewstep.calibration.needs import needs
from fewstep.calibration.options import (
    CalibrateOptions,
    biased_targets,
    check_options,
    methods_of,
    seeds_of,
    targets_of,
    thin_targets,
    warn_of_few,
    ways_of,
)
from fewstep.calibration.precision.native import searched_here
from fewstep.calibration.precision.record import describe, parse_bound
from fewstep.calibration.precision.refine import SearchResult, refine
from fewstep.calibration.precision.search_job import Ask, SearchJob
from fewstep.calibration.precision.variants import Variants
from fewstep.calibration.task import Task
from fewstep.graph import io
from fewstep.graph.commit import Writer, open_for_update
from fewstep.graph.needs import check_needs
from fewstep.lowering.agreement import warn_of_disagreement
from fewstep.lowering.files import Files
from fewstep.lowering.quantize import LoweredBody, lowered_ops
from fewstep.lowering.scheme import Target
from fewstep.plans.errors import UserError
from fewstep.plans.guidance import weight_of
from fewstep.plans.plan import Plan, regroup, shaping_of
from fewstep.plans.shaping import Clip, clip_to
from fewstep.ranges.methods import lambda_edges
from fewstep.ranges.table import Method, RangesTable
from fewstep.rollouts.closed_loop import Course, open_courses
from fewstep.rollouts.conditions_file import ConditionRecords, deal
from fewstep.rollouts.on_demand import OnDemand, OpeningOnDemand, close
from fewstep.rollouts.prompts import CALIBRATION, given_rows
from fewstep.rollouts.row_by_row import sampler_by_rows
from fewstep.rollouts.trajectories import draw_condition, fewest_of_all, in_words
from fewstep.runtime.bundle.manifest import Manifest
from fewstep.runtime.bundle.platforms import body_name
from fewstep.runtime.conditions import is_led_by_guidance
from fewstep.runtime.execute import finish
from fewstep.runtime.loading import load
from fewstep.runtime.progress import SILENT, Progress
from fewstep.runtime.request import SCHEDULER
from fewstep.runtime.sampler import Sampler
from fewstep.runtime.sizes import defaults, sized
from fewstep.workers.in_order import Workers, in_order
from fewstep.workers.opening import opened, threads_of
from fewstep.workers.sent_bundle import sent

LOG = logging.getLogger("fewstep")
GUIDANCE = 2.0


@dataclass(frozen=True)
class Calibration:
    """What was measured and made. `tables` and `lowered` are by body name, e.g. "int8-cpu-x86"; `refined` has what a
    search found of a body, if one was asked for."""

    manifest: Manifest
    plan: Plan
    tables: Mapping[str, RangesTable]
    lowered: Mapping[str, LoweredBody]
    refined: Mapping[str, SearchResult]


def calibrate(options: CalibrateOptions, progress: Progress = SILENT, workers: Workers | None = None) -> Calibration:
    """Roll the float denoiser out, measure ranges, lower for every target, and commit it all at once.

    `workers` of the caller follow trajectories in the place of those that the options name.
    """
    check_options(options)
    with open_for_update(options.bundle, must_exist=True, verb="calibrate") as writer:
        task = open_task(options)
        check_needs(needs(task, options.workers, ways_of(options)), writer)
        sampler = task.sampler
        digest = io.sha256(sampler.bundle.graph(sampler.body.graph))
        with opened(options.workers, options.dask, workers, options.threads) as hands:
            kept = checkpoint_of(task, digest, threads_of(hands, options.threads))
            counts = count_activations(task, progress, kept, hands)
        failed = overflowing(task.targets, counts.reached())
        by_method = tabulate(counts, task.prepared, digest, task.plan.name, methods_of(options), progress)
        plan = regroup(task.plan, counts.edges)
        possible = [target for target in task.targets if body_of(target) not in failed]
        ways = _ways(options, task, by_method, writer)
        courses = courses_for(task, plan, possible, ways, progress)
        seen = first_inputs(task, plan, courses)
        chosen = choose_each(task, plan, possible, ways, courses, partial(_check_kernels, seen), failed, progress)
        refined = _refine(options, task, plan, chosen, seen, failed, progress, workers)
        chosen = {name: each for name, each in chosen.items() if name not in failed}
        lowered = {name: each.lowered for name, each in chosen.items()}
        tables = {name: each.variants.table for name, each in chosen.items()}
        bound = parse_bound(options.quality, options.speed)
        command = _command(options, plan, lowered)
        trials = {name: each.trials for name, each in chosen.items()}
        manifest = commit(writer, sampler.bundle, plan, tables, lowered, refined, bound, command, trials)
        if failed:
            raise some_failed(failed, lowered)  # what was counted stays, for the next try
        kept.drop()
    return Calibration(manifest, plan, tables, lowered, refined)


def _ways(options: CalibrateOptions, task: Task, tables: Mapping[Method, RangesTable], writer: Writer) -> Ways:
    """What is asked to be tried. Weights of large bodies are written before they are run."""
    thin = thin_convolutions(task.prepared) if thin_targets(options) else ()
    in_float = dict.fromkeys(thin_targets(options), thin)
    return Ways(tables, in_float, biased_targets(options), Files(writer) if task.sampler.body.graph.data else None)


def _check_kernels(seen: FirstInputs, name: str, lowered: LoweredBody, target: Target) -> None:
    """A warning where this CPU's integer kernels compute something else than their numbers stand for, row by row: all
    that they make is held."""
    if target.engine is not None:
        warn_of_disagreement(lowered.graph, chain.from_iterable(seen.values()), name, target.engine)


def _check_stages(name: str, refined: SearchResult, known: LoweredBody, target: Target, seen: FirstInputs) -> None:
    """The same for each graph of a precision map, in the groups it serves; `known` was checked before."""
    served = 0
    for number, (until, lowered) in enumerate(refined.stages):
        if lowered is not known:
            _check_kernels({g: seen[g] for g in range(served, until) if g in seen}, f"{name}-{number}", lowered, target)
        served = until


def _refine(
    options: CalibrateOptions,
    task: Task,
    plan: Plan,
    chosen: Mapping[str, Chosen],
    seen: FirstInputs,
    failed: dict[str, UserError],
    progress: Progress,
    workers: Workers | None,
) -> dict[str, SearchResult]:
    """A precision map for each body that is at home on this kind of CPU, if a bound is given.

    Into `failed` go the errors of bodies without such a map. UserError if no body is left.
    """
    bound = parse_bound(options.quality, options.speed)
    if bound is None:
        return {}
    shown = partial(_under, progress, "precision map")
    course, judges = open_courses(task.sampler, plan, task.conditions, shown)
    close(task.sampler.denoiser)
    found = {}
    with opened(options.workers, options.dask, workers, options.threads) as hands:
        threads = threads_of(hands, options.threads)
        for name, each in chosen.items():
            target = each.variants.target
            if target.name in searched_here():
                shown = partial(_under, progress, f"precision map of {target.name}")
                try:
                    ask = None if hands is None else _asking(task, plan, each.variants, course, hands)
                    refined = refine(each.variants, course, judges, bound, ask, threads=threads, progress=shown)
                    _check_stages(name, refined, each.lowered, target, seen)
                    found[name] = refined
                except UserError as error:
                    failed[name] = error
    if chosen.keys() <= failed.keys():
        raise next(iter(failed.values()))
    for name, refined in found.items():
        if refined.is_float:
            LOG.warning(
                "%s runs nothing in int8: of all that was tried, float32 itself fits %s best (its step takes %.2f times"
                " that of all int8, which has %.1f dB)",
                *(name, describe(bound), refined.sensitivity.float_time, refined.int8.quality),
            )
    return found


def _asking(task: Task, plan: Plan, variants: Variants, course: Course, workers: Workers) -> Ask:
    """Workers that run the choices of a search."""
    table, exact = variants.table, finish(plan, course.reference[-1:])
    job = SearchJob(sent(task.sampler.bundle.path), plan, task.conditions, table, variants.target.name, exact)
    return lambda asked: in_order(job, asked, workers)


def _under(progress: Progress, name: str, stage: str, done: int, total: int) -> None:
    progress(f"{name}: {stage}", done, total)


def open_task(options: CalibrateOptions) -> Task:
    """Read the bundle and check everything that can be checked without sampling. UserError if it cannot be done."""
    sampler = load(options.bundle, body="float32", backend=OpeningOnDemand(threads=options.threads))
    if isinstance(sampler.denoiser, OnDemand):
        sampler = replace(sampler, bundle=sampler.denoiser.bundle)  # whose files are hashed once
    prepared = io.load(sampler.bundle.graph(sampler.body.graph), root=options.bundle)
    plan = _plan(options, sampler)
    edges = lambda_edges([-inf if step.lam is None else step.lam for step in plan.steps])
    task = Task(
        sampler=sampler_by_rows(sampler),
        prepared=prepared,
        plan=plan,
        targets=targets_of(options),
        seeds=seeds_of(options),
        edges=() if options.groups == "pooled" else edges,
        operations=tuple(op.name for op in lowered_ops(prepared)),
        conditions=_conditions(options, sampler),
        sizes=_sizes(options, sampler),
        threads=options.threads,
    )
    for target in task.targets:
        if target.tries is not None:
            target.tries(sampler.bundle)  # what an engine cannot run is told before hours of measuring
    warn_of_few(options)
    return task


def _conditions(options: CalibrateOptions, sampler: Sampler) -> ConditionRecords | None:
    """A row for each trajectory, of a file or of prompts. Without either, that every condition can be drawn."""
    rows = given_rows(sampler.bundle, options.conditions, options.prompts, CALIBRATION)
    if rows is not None:
        return deal(rows, options.trajectories)
    for number, condition in enumerate(sampler.bundle.manifest.conditions):
        draw_condition(condition, number, options.seed)
    return None


def _sizes(options: CalibrateOptions, sampler: Sampler) -> tuple[dict[str, int], ...]:
    """The sizes that are asked for, each a choice of all free axes."""
    manifest, chosen = sampler.bundle.manifest, []
    names = [size.name for size in manifest.sizes]
    for text in options.size:
        numbers = text.split("x")
        if len(numbers) != len(names) or not all(each.isascii() and each.isdecimal() for each in numbers):
            form = "x".join(name.upper() for name in names)
            fix = f"write {form} for each" if names else "leave it out: x has one shape"
            raise UserError(f"--size {text!r}", fix)
        chosen.append({name: int(number) for name, number in zip(names, numbers, strict=True)})
        sized(manifest, chosen[-1])
    usual = defaults(manifest.x_shape, manifest.sizes)
    given = options.conditions is not None or options.prompts is not None
    if given and any(each.follows for each in manifest.conditions) and any(sizes != usual for sizes in chosen):
        raise UserError("--size with your own conditions, of which some follow x's size", "leave one of them out")
    if chosen and options.trajectories < (fewest := fewest_of_all(options.seed, len(chosen))):
        raise UserError(
            f"{in_words(options.trajectories)} cannot have all of --size {','.join(options.size)}",
            f"follow at least {fewest} (--trajectories {fewest}), or name fewer sizes",
        )
    return tuple(chosen)


def _plan(options: CalibrateOptions, sampler: Sampler) -> Plan:
    """The plan, one lambda group for now. A plan's file brings its own guidance."""
    guided = is_led_by_guidance(sampler.bundle.manifest.conditions)
    default = GUIDANCE if guided and not options.plan.endswith(".json") else None
    weight = default if options.guidance is None else options.guidance
    plan = sampler.compile(options.plan, weight, shaping=clip_to(options.clip))
    clip = _own_clip(sampler) if shaping_of(plan) is None else None
    if clip is not None:
        LOG.warning(
            "the model's own scheduler clips predictions to [%g, %g], and this plan does not: if your program clips, "
            "give --clip %g, so that ranges fit",
            *(clip.low, clip.high, clip.high),
        )
    return plan


def _own_clip(sampler: Sampler) -> Clip | None:
    """That of the scheduler which came with the denoiser."""
    if sampler.bundle.manifest.scheduler is None:
        return None
    with suppress(UserError):
        found = shaping_of(sampler.compile(f"{SCHEDULER}2"))
        return found if isinstance(found, Clip) else None
    return None


def _command(options: CalibrateOptions, plan: Plan, made: Collection[str]) -> str:
    """The command that does this again for the targets that were `made`, without anybody's paths. `comparable` reads
    it."""
    recorded = replace(
        options,
        plan=plan.name,
        guidance=weight_of(plan.guidance),
        target=tuple(name for name in options.target if body_name("int8", name) in made),
        conditions=options.conditions and Path("FILE"),
        prompts=options.prompts and Path("FILE"),
    )
    return recorded.command("calibrate", always=("plan", "target", "trajectories", "ranges", "groups", "seed"))
