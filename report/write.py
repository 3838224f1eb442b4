"""The verb: measure, draw, and put the page and its figures into the bundle."""

from collections.abc import Callable
from concurrent.futures import Executor
from dataclasses import dataclass, replace
from typing import TypeVar

import msgspec

from fewstep.graph.needs import check_memory
from fewstep.graph.output import write_whole
from fewstep.measure.bodies import int8_bodies
from fewstep.measure.columns import MeasureTask, TimedColumns
from fewstep.measure.cost import body_bytes
from fewstep.measure.engines import is_simulated
from fewstep.measure.judged_batch import Contender
from fewstep.measure.judged_task import JudgedTask, check_output, open_judged_task, unchanged
from fewstep.measure.results import Results, encode
from fewstep.measure.rollouts.calibrated_plan import judged_plan
from fewstep.measure.sampling import FLOAT
from fewstep.measure.speed.bodies import timed_here
from fewstep.measure.speed.machine import this_machine
from fewstep.plans.errors import UserError
from fewstep.plans.guidance import describe
from fewstep.plans.plan import Plan
from fewstep.report.address import lead_to
from fewstep.report.distribution import stored_evaluation
from fewstep.report.engines.section import shown_engines
from fewstep.report.measure import left_out, measure, notes, own_plans
from fewstep.report.options import ReportOptions
from fewstep.report.page import page
from fewstep.report.precision import ShownMap, shown_maps
from fewstep.runtime.bundle.networks import edges_of, networks, whole_bodies
from fewstep.runtime.bundle.reading import Bundle, open_bundle
from fewstep.runtime.progress import SILENT, Progress

WRITTEN = 2**23, 0, 0  # bytes of the page with its pictures, its figures and its address, which are seldom more

T = TypeVar("T")


def report(options: ReportOptions, progress: Progress = SILENT, workers: Executor | None = None) -> Results:
    """Judge a bundle and write report/index.html into it, with the same figures as JSON beside it; or both elsewhere.

    Measuring takes minutes and does not hold the bundle's lock; if the bundle changes meanwhile, nothing is written.
    `workers` of the caller sample in the place of those that the options name.
    """
    asked = open_report(options)
    assert asked.judged is not None
    task = asked.judged
    check_memory(task.needs(*WRITTEN), options.bundle)
    stored = _kept(task.bundle, task)
    asked.estimate().announce()
    measured, samples = measure(asked, progress, workers)
    if options.output is not None:
        measured = _with_notes(measured, stored)
        write_whole(options.output.with_suffix(".json"), encode(measured))
        write_whole(options.output, page(measured, samples, stored.evaluation, stored.maps, stored.engines))
        return measured
    with unchanged(asked.bundle, "give --output FILE.html") as (writer, manifest):
        if manifest != asked.bundle.manifest:  # evaluated meanwhile, as it may be
            stored = _kept(open_bundle(options.bundle), task)
        measured = _with_notes(measured, stored)
        content = page(measured, samples, stored.evaluation, stored.maps, stored.engines)
        drawn = writer.add(content, folder="report", name="index", suffix=".html")
        figures = writer.add(encode(measured), folder="report", name="results", suffix=".json")
        writer.commit(msgspec.structs.replace(manifest, report=drawn, results=figures))
        lead_to(options.bundle, drawn)
    return measured


@dataclass(frozen=True)
class StoredFigures:
    """Figures of measure, calibrate and build that the bundle has for the page; `left_out` says what does not."""

    evaluation: Results | None = None
    maps: tuple[ShownMap, ...] = ()
    engines: tuple[tuple[str, ...], ...] = ()
    left_out: tuple[str, ...] = ()


def _with_notes(measured: Results, stored: StoredFigures) -> Results:
    """The results, with a note on what is not shown beside them."""
    return msgspec.structs.replace(measured, notes=(*measured.notes, *stored.left_out))


def _kept(bundle: Bundle, task: JudgedTask) -> StoredFigures:
    """Stored figures of a bundle, as it is now, along the judged plan: the evaluation, and the precision maps of
    bodies that were calibrated along it."""
    left_out: list[str] = []
    evaluation = _read(bundle, "evaluation", stored_evaluation, left_out)
    maps = _read(bundle, "precision maps", shown_maps, left_out) or ()
    reference, judged = task.reference, task.plan
    usual = judged_plan(reference, next(iter(task.bodies.values())))
    if evaluation is not None:
        of = (evaluation.plan, evaluation.guidance)
        if of != _named(judged) or (of == _named(usual) and usual != judged):  # of that name are two plans, then
            left_out.append(f"Not shown: the bundle's evaluation, which is of {_said(*of)}.")
            evaluation = None
    shown = []
    for each in maps:
        calibrated = judged_plan(reference, bundle.body(each.precision_map.body))
        if each.precision_map.plan == calibrated.name and calibrated == judged:
            shown.append(each)
        else:
            other = (
                _said(*_named(calibrated)) if each.precision_map.plan == calibrated.name else each.precision_map.plan
            )
            left_out.append(f"Not shown: the precision map of {each.precision_map.body}, which is of {other}.")
    return StoredFigures(evaluation, tuple(shown), shown_engines(bundle), tuple(left_out))


def _read(bundle: Bundle, what: str, stored: Callable[[Bundle], T], left_out: list[str]) -> T | None:
    """The stored content, or None and a note in `left_out` that it cannot be read. The judging goes on."""
    try:
        return stored(bundle)
    except UserError as error:
        reason = error.what.replace(f"{bundle.path}: ", "")  # a page may be shown to others
        left_out.append(f"Not shown: the bundle's {what}, since {reason}.")
        return None


def _named(plan: Plan) -> tuple[str, str | None]:
    """A plan's name and guidance as results have them."""
    return plan.name, None if plan.guidance is None else describe(plan.guidance)


def _said(plan: str, guidance: str | None) -> str:
    return f"{plan}, no guidance" if guidance is None else f"{plan}, guidance {guidance}"


def open_report(options: ReportOptions) -> MeasureTask:
    """The task of a report, after all refusals that need no measuring. UserError names the rest."""
    bundle = open_bundle(options.bundle)
    bodies = int8_bodies(bundle)
    for part in map(bundle.network, networks(bundle.manifest)):
        for each in bodies:
            for graph in part.body(each).graphs:
                bundle.graph(graph)  # whose bytes are read, and compared with the manifest's
        for name in filter(None, (part.manifest.ranges, *part.manifest.plans.values())):
            bundle.file(name)
    task = open_judged_task(bundle, list(bodies), options, "report")
    check_output(task, options.output, WRITTEN[0], "report", ".html")
    contenders = tuple(_contender(task, name, options) for name in bodies)
    seeds = options.seeds if task.teacher is not None else max(each.seeds for each in contenders)
    timed = [FLOAT, *(name for name in timed_here(bundle) if name in bodies)]
    plans = {FLOAT: task.plan, **task.plans}
    return MeasureTask(
        bundle=bundle,
        plan=task.plan,
        command=task.command,
        setup=task.setup,
        judged=replace(task, contenders=contenders, count=seeds, has_samples=True),
        timed=TimedColumns(timed, (), plans, options.turns()) if len(timed) > 1 else None,
        sizes={name: body_bytes(bundle, name) for name in whole_bodies(bundle.manifest)},
        notes=(*notes(bodies.values(), this_machine()), *own_plans(task.plans), *left_out(bundle)),
    )


def _contender(task: JudgedTask, name: str, options: ReportOptions) -> Contender:
    """A body on its seeds, fewer where its numerics are simulated. All run the first plan but one that has another."""
    simulated, plan = is_simulated(task.bodies[name]), task.plans[name]
    seeds = min(options.seeds, options.simulated_seeds) if simulated else options.seeds
    forced = min(seeds, options.forced_seeds // 2 or 1 if simulated else options.forced_seeds)
    return Contender(name, edges_of(task.bundle.manifest, name), seeds, forced, None if plan == task.plan else plan)
