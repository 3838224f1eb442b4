"""`fewstep report`: measure, build the page, and add the page and its measurements to the bundle."""

from collections.abc import Callable
from concurrent.futures import Executor
from dataclasses import replace
from pathlib import Path
from typing import TypeVar

import msgspec

from fewstep.graph.files.output_files import write_atomic
from fewstep.graph.resource_needs import check_memory
from fewstep.measure.measurement import MeasureTask
from fewstep.measure.results import Results, encode
from fewstep.measure.results_output import open_if_unchanged
from fewstep.plans.errors import UserError
from fewstep.report.advice import advice
from fewstep.report.call_time import describe_call, valid_calls
from fewstep.report.choosing.whole_call import time_outdated_calls, with_calls
from fewstep.report.engines.section import describe_engines
from fewstep.report.figures import collect_figures
from fewstep.report.options import ReportOptions
from fewstep.report.page import build_page
from fewstep.report.page_link import link_report_page
from fewstep.report.report_task import WRITTEN, open_report_task
from fewstep.report.sections.distribution import read_evaluation
from fewstep.report.sections.precision import read_shown_maps
from fewstep.report.sections.samples import Samples
from fewstep.runtime.bundle.reading import Bundle
from fewstep.runtime.progress import SILENT, Progress

T = TypeVar("T")


def report(options: ReportOptions, progress: Progress = SILENT, workers: Executor | None = None) -> Results:
    """Compare a bundle's bodies with float32, and write report/index.html and the same results as JSON into the bundle,
    or to `options.output`.

    Measuring takes minutes and does not hold the bundle's lock. If the bundle changes meanwhile, nothing is written.

    workers: the caller's worker processes, to use instead of those that the options request.
    """
    asked = open_report_task(options)
    assert asked.judged is not None
    check_memory(asked.judged.needs(*WRITTEN), options.bundle)
    asked.estimate().announce()
    asked = _with_current_calls(asked)
    measured, samples = collect_figures(asked, progress, workers)
    if options.output is not None:
        measured, content = _build_page(asked.bundle, measured, samples)
        write_atomic(options.output.with_suffix(".json"), encode(measured))
        write_atomic(options.output, content)
        return measured
    with open_if_unchanged(asked.bundle, "give --output FILE.html") as writer:
        assert writer.opened is not None, "the bundle exists"
        manifest = msgspec.structs.replace(writer.opened.manifest, calls=asked.bundle.manifest.calls)
        opened = replace(writer.opened, manifest=manifest)  # may have an evaluation now
        measured, content = _build_page(opened, measured, samples)
        drawn = writer.add(content, folder="report", name="index", suffix=".html")
        results = writer.add(encode(measured), folder="report", name="results", suffix=".json")
        writer.commit(msgspec.structs.replace(manifest, report=drawn, results=results))
        link_report_page(options.bundle, drawn)
    return measured


def _with_current_calls(task: MeasureTask) -> MeasureTask:
    """Return the task with its bundle's times of whole calls, of which those that are outdated are measured again."""
    if task.timed is None or task.judged is None:
        return task
    records, bundle = task.judged.records, task.bundle
    bodies = [name for name in task.timed.here if name in task.judged.plans]
    timed = time_outdated_calls(bundle, bodies, task.timed.turns.threads, lambda _: records)
    return replace(task, bundle=replace(bundle, manifest=with_calls(bundle.manifest, timed)))


def _build_page(bundle: Bundle, measured: Results, samples: Samples | None) -> tuple[Results, bytes]:
    """Build the page, including the stored results of measure, calibrate and build.

    Returns the results with a note on each stored result that cannot be read, and the page.
    """
    left_out: list[str] = []
    evaluation = _read_or_note(bundle, "evaluation", read_evaluation, left_out)
    maps = _read_or_note(bundle, "precision maps", read_shown_maps, left_out) or ()
    times = (describe_call(call, bundle.body(call.body)) for call in valid_calls(bundle.manifest))
    measured = msgspec.structs.replace(measured, notes=(*measured.notes, *left_out, *times))
    named = Path(bundle.path.resolve().name)  # a page may be published, so it contains no path of this machine
    advised = advice(measured, bundle, named)
    return measured, build_page(measured, samples, evaluation, maps, describe_engines(bundle), advised)


def _read_or_note(bundle: Bundle, what: str, stored: Callable[[Bundle], T], left_out: list[str]) -> T | None:
    """Return stored content. If it cannot be read, return None, and add the reason to `left_out`; the page is written
    without it."""
    try:
        return stored(bundle)
    except UserError as error:
        reason = error.what.replace(f"{bundle.path}: ", "")  # a page may be published
        left_out.append(f"Not shown: the bundle's {what}, because {reason}.")
        return None
