"""The inputs of a report: what is measured. All mistakes that can be found before measuring are found here."""

from dataclasses import replace

from fewstep.measure.bodies import int8_bodies
from fewstep.measure.body_backends import is_simulated
from fewstep.measure.cost import call_bytes
from fewstep.measure.judged_run import Contender
from fewstep.measure.judged_task import JudgedTask
from fewstep.measure.measurement import MeasureTask
from fewstep.measure.results_output import check_output
from fewstep.measure.sampling import FLOAT
from fewstep.measure.speed.timed_bodies import TimedBodies, select_local_bodies
from fewstep.report.figures import list_excluded_bodies, machine_notes, plan_notes
from fewstep.report.options import ReportOptions
from fewstep.runtime.bundle.networks import common_bodies, edges_of, networks

WRITTEN = 2**23, 0, 0  # bytes that a page with its pictures, its figures and its address usually take at most


def open_report_task(options: ReportOptions) -> MeasureTask:
    """Open the task of a report. Raises UserError for every problem that can be found before measuring."""
    bundle = options.open()
    bodies = int8_bodies(bundle)
    for part in map(bundle.select_network, networks(bundle.manifest)):
        for body in bodies:
            for graph in (*part.body(body).graphs, *part.body(body).replaces.values()):
                bundle.graph(graph)  # compares the hash of the file with the manifest
        for name in filter(None, (part.manifest.ranges, *part.manifest.plans.values())):
            bundle.file(name)
    task = options.open_judged_task(bundle, list(bodies))
    check_output(task, options.output, WRITTEN[0], "report", ".html")
    contenders = tuple(_make_contender(task, name, options) for name in bodies)
    seeds = options.seeds if task.teacher is not None else max(contender.seeds for contender in contenders)
    timed = [FLOAT, *(name for name in select_local_bodies(bundle) if name in bodies)]
    return MeasureTask(
        bundle=bundle,
        plan=task.plan,
        command=options.command_line("report"),
        setup=task.setup,
        judged=replace(task, contenders=contenders, count=seeds, has_samples=True),
        timed=TimedBodies(timed, (), {FLOAT: task.plan, **task.plans}, options.turns()) if len(timed) > 1 else None,
        sizes={name: call_bytes(bundle, name) for name in common_bodies(bundle.manifest)},
        notes=(*machine_notes(bodies.values()), *plan_notes(task.plans), *list_excluded_bodies(bundle)),
    )


def _make_contender(task: JudgedTask, name: str, options: ReportOptions) -> Contender:
    """Return a body with the number of seeds on which it is compared with float32, which is smaller if its arithmetic
    is simulated. A body whose plan differs from the first body's keeps its own plan."""
    simulated, plan = is_simulated(task.bodies[name]), task.plans[name]
    seeds = min(options.seeds, options.simulated_seeds) if simulated else options.seeds
    forced = min(seeds, options.forced_seeds // 2 or 1 if simulated else options.forced_seeds)
    return Contender(name, edges_of(task.bundle.manifest, name), seeds, forced, None if plan == task.plan else plan)
