"""The verb: measure, draw, and put the page and its figures into the bundle."""

import os
import shutil
from contextlib import suppress
from pathlib import Path

import msgspec

from fewstep.calibration import results
from fewstep.calibration.bodies import int8_bodies, judged_plan, open_body
from fewstep.calibration.evaluation.teacher import teacher_plan
from fewstep.calibration.output import write_whole
from fewstep.calibration.report.distribution import stored_evaluation
from fewstep.calibration.report.measure import measure
from fewstep.calibration.report.options import ReportOptions
from fewstep.calibration.report.page import page
from fewstep.calibration.report.precision import stored_maps
from fewstep.calibration.results import Results
from fewstep.graph.commit import open_for_update
from fewstep.runtime.bundle import open_bundle
from fewstep.runtime.errors import UserError
from fewstep.runtime.plan import Plan
from fewstep.runtime.progress import SILENT, Progress

ADDRESS = "report/index.html"
ROOM = 2**23  # bytes of a page with its pictures and figures, which are seldom more
ELSEWHERE = "give --output FILE.html"


def report(options: ReportOptions, progress: Progress = SILENT) -> Results:
    """Judge a bundle and write report/index.html into it, with the same figures as JSON beside it; or both elsewhere.

    Measuring takes minutes and does not hold the bundle's lock; if the bundle changes meanwhile, nothing is written.
    """
    before = open_bundle(options.bundle).manifest
    check(options)
    measured, samples = measure(options, progress)
    if options.output is not None:
        write_whole(options.output.with_suffix(".json"), results.encode(measured))
        write_whole(options.output, page(measured, samples))
        return measured
    with open_for_update(options.bundle, must_exist=True, instead=ELSEWHERE) as writer:
        manifest = open_bundle(options.bundle).manifest
        if (manifest.bodies, manifest.prologue) != (before.bodies, before.prologue):
            raise UserError(f"{options.bundle} was changed while it was judged", "ask for the report again")
        bundle = open_bundle(options.bundle)
        content = page(measured, samples, stored_evaluation(bundle), stored_maps(bundle))
        drawn = writer.add(content, folder="report", name="index", suffix=".html")
        figures = writer.add(results.encode(measured), folder="report", name="results", suffix=".json")
        writer.commit(msgspec.structs.replace(manifest, report=drawn, results=figures))
        _address(options.bundle, drawn)
    return measured


def check(options: ReportOptions) -> Plan:
    """The plan to judge, once all that can be refused before measuring is not. UserError names the rest."""
    bundle = open_bundle(options.bundle)
    bodies = int8_bodies(bundle)
    for each in bodies.values():
        for graph in (each.graph, *(stage.graph for stage in each.stages)):
            bundle.graph(graph)  # whose bytes are read, and compared with the manifest's
    body = next(iter(bodies.values()))
    for name in filter(None, (bundle.manifest.ranges, *bundle.manifest.plans.values())):
        bundle.file(name)
    reference = open_body(bundle, "float32", options.threads)
    plan = judged_plan(reference, body, options.plan, options.guidance)
    teacher_plan(reference, options.teacher, plan.guidance)
    if options.output is not None:
        if not options.output.absolute().parent.is_dir():
            raise UserError(f"there is no folder {options.output.parent}", "make it first, or write elsewhere")
        return plan
    if plan != judged_plan(reference, body):
        raise UserError(
            f"{options.bundle} was calibrated along {body.plan}, and keeps the report of that alone",
            "give --output FILE.html for a report of another plan or guidance",
        )
    with open_for_update(options.bundle, must_exist=True, instead=ELSEWHERE) as writer:  # and is nobody else writing?
        writer.reserve(ROOM)
        return plan


def _address(bundle: Path, drawn: str) -> None:
    """Make report/index.html lead to the page just committed.

    The page itself has a content-hashed name, as every file of a bundle; this is only its address for people. A kill
    before it leaves the address on the former page, or on none, and the bundle valid.
    """
    address = bundle / ADDRESS
    draft = bundle / "report" / ".index.html"
    with suppress(FileNotFoundError):
        draft.unlink()
    try:
        draft.symlink_to(Path(drawn).name)
    except OSError:  # no links here, as on some Windows systems
        shutil.copyfile(bundle / drawn, draft)
    os.replace(draft, address)
