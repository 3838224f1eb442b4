"""`fewstep report`: measure, build the page, and add it with its figures to the bundle."""

from collections.abc import Callable
from concurrent.futures import Executor
from dataclasses import replace
from pathlib import Path
from typing import TypeVar

import msgspec

from fewstep.graph.files.output_files import write_atomic
from fewstep.graph.resource_needs import check_memory
from fewstep.measure.bodies import int8_bodies
from fewstep.measure.body_backends import is_simulated
from fewstep.measure.cost import body_bytes
from fewstep.measure.judged_run import Contender
from fewstep.measure.judged_task import JudgedTask
from fewstep.measure.measurement import MeasureTask
from fewstep.measure.results import Results, encode
from fewstep.measure.results_output import check_output, open_if_unchanged
from fewstep.measure.sampling import FLOAT
from fewstep.measure.speed.machine import this_machine
from fewstep.measure.speed.timed_bodies import TimedBodies, select_local_bodies
from fewstep.plans.errors import UserError
from fewstep.report.advice import advice
from fewstep.report.engines.section import describe_engines
from fewstep.report.figures import collect_figures, list_excluded_bodies, machine_notes, plan_notes
from fewstep.report.options import ReportOptions
from fewstep.report.page import build_page
from fewstep.report.page_link import link_report_page
from fewstep.report.sections.distribution import read_evaluation
from fewstep.report.sections.precision import read_shown_maps
from fewstep.report.sections.samples import Samples
from fewstep.runtime.bundle.networks import common_bodies, edges_of, networks
from fewstep.runtime.bundle.reading import Bundle
from fewstep.runtime.progress import SILENT, Progress

WRITTEN = 2**23, 0, 0  # bytes that a page with its pictures, its figures and its address usually take at most

T = TypeVar("T")


def report(options: ReportOptions, progress: Progress = SILENT, workers: Executor | None = None) -> Results:
    """Judge a bundle, and write report/index.html and the same figures as JSON into it, or to `options.output`.

    Measuring takes minutes and does not hold the bundle's lock. If the bundle changes meanwhile, nothing is written.
    `workers` of the caller, if given, sample instead of the workers of the options.
    """
    asked = open_report_task(options)
    assert asked.judged is not None
    check_memory(asked.judged.needs(*WRITTEN), options.bundle)
    asked.estimate().announce()
    measured, samples = collect_figures(asked, progress, workers)
    if options.output is not None:
        measured, content = _build_page(asked.bundle, measured, samples)
        write_atomic(options.output.with_suffix(".json"), encode(measured))
        write_atomic(options.output, content)
        return measured
    with open_if_unchanged(asked.bundle, "give --output FILE.html") as (writer, manifest):
        measured, content = _build_page(options.open(), measured, samples)  # may have an evaluation now
        drawn = writer.add(content, folder="report", name="index", suffix=".html")
        results = writer.add(encode(measured), folder="report", name="results", suffix=".json")
        writer.commit(msgspec.structs.replace(manifest, report=drawn, results=results))
        link_report_page(options.bundle, drawn)
    return measured


def _build_page(bundle: Bundle, measured: Results, samples: Samples | None) -> tuple[Results, bytes]:
    """Build the page, including the stored results of measure, calibrate and build.

    Returns the results with a note on each stored result that cannot be read, and the page.
    """
    left_out: list[str] = []
    evaluation = _read_or_note(bundle, "evaluation", read_evaluation, left_out)
    maps = _read_or_note(bundle, "precision maps", read_shown_maps, left_out) or ()
    measured = msgspec.structs.replace(measured, notes=(*measured.notes, *left_out))
    named = Path(bundle.path.resolve().name)  # a page may be published, so it contains no path of this machine
    advised = advice(measured, bundle, named)
    return measured, build_page(measured, samples, evaluation, maps, describe_engines(bundle), advised)


def _read_or_note(bundle: Bundle, what: str, stored: Callable[[Bundle], T], left_out: list[str]) -> T | None:
    """Return stored content, or None with a note in `left_out` if it cannot be read. The page is written anyway."""
    try:
        return stored(bundle)
    except UserError as error:
        reason = error.what.replace(f"{bundle.path}: ", "")  # a page may be published
        left_out.append(f"Not shown: the bundle's {what}, because {reason}.")
        return None


def open_report_task(options: ReportOptions) -> MeasureTask:
    """Open the task of a report. Raises UserError for every fault that can be found before measuring."""
    bundle = options.open()
    bodies = int8_bodies(bundle)
    for part in map(bundle.select_network, networks(bundle.manifest)):
        for each in bodies:
            for graph in part.body(each).graphs:
                bundle.graph(graph)  # compares the hash of the file with the manifest
        for name in filter(None, (part.manifest.ranges, *part.manifest.plans.values())):
            bundle.file(name)
    task = options.judge(bundle, list(bodies))
    check_output(task, options.output, WRITTEN[0], "report", ".html")
    contenders = tuple(_make_contender(task, name, options) for name in bodies)
    seeds = options.seeds if task.teacher is not None else max(each.seeds for each in contenders)
    timed = [FLOAT, *(name for name in select_local_bodies(bundle) if name in bodies)]
    return MeasureTask(
        bundle=bundle,
        plan=task.plan,
        command=options.command_line("report"),
        setup=task.setup,
        judged=replace(task, contenders=contenders, count=seeds, has_samples=True),
        timed=TimedBodies(timed, (), {FLOAT: task.plan, **task.plans}, options.turns()) if len(timed) > 1 else None,
        sizes={name: body_bytes(bundle, name) for name in common_bodies(bundle.manifest)},
        notes=(*machine_notes(bodies.values(), this_machine()), *plan_notes(task.plans), *list_excluded_bodies(bundle)),
    )


def _make_contender(task: JudgedTask, name: str, options: ReportOptions) -> Contender:
    """Return a body with its seeds, which are fewer if its numerics are simulated. A body whose plan differs from the
    first one keeps its own plan."""
    simulated, plan = is_simulated(task.bodies[name]), task.plans[name]
    seeds = min(options.seeds, options.simulated_seeds) if simulated else options.seeds
    forced = min(seeds, options.forced_seeds // 2 or 1 if simulated else options.forced_seeds)
    return Contender(name, edges_of(task.bundle.manifest, name), seeds, forced, None if plan == task.plan else plan)
