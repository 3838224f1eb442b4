"""`fewstep measure`: compare bodies of a bundle by distance from float32, as sets, by time and by size."""

from collections.abc import Mapping, Sequence
from concurrent.futures import Executor
from dataclasses import replace

import msgspec

from fewstep.graph.files.output_files import check_writable, write_atomic
from fewstep.graph.resource_needs import check_memory
from fewstep.measure.bodies import find_excluded_bodies, int8_bodies
from fewstep.measure.body_backends import is_simulated
from fewstep.measure.cost import call_bytes
from fewstep.measure.distances.data import open_data
from fewstep.measure.distances.features import default_extractor, open_extractor
from fewstep.measure.judged_task import JudgedTask
from fewstep.measure.measurement import MeasureTask, run_measurement
from fewstep.measure.options import MeasureOptions
from fewstep.measure.results import Results, encode
from fewstep.measure.results_output import check_output, open_if_unchanged
from fewstep.measure.sampling import FLOAT
from fewstep.measure.speed.timed_bodies import TimedBodies, select_backend_bodies, select_local_bodies, timing_notes
from fewstep.measure.speed.timed_plans import select_timed_plans
from fewstep.plans.errors import UserError
from fewstep.plans.plan import Plan
from fewstep.runtime.bundle.networks import common_bodies
from fewstep.runtime.bundle.reading import Bundle
from fewstep.runtime.progress import SILENT, Progress

ROOM = 2**20  # bytes reserved for the figures, which rarely take more


def measure(options: MeasureOptions, progress: Progress = SILENT, workers: Executor | None = None) -> Results:
    """Measure a bundle. The measured quality is stored in the bundle as JSON; with --output, all results are written to
    a file instead.

    Sampling takes minutes and does not hold the bundle's lock. If the bundle's graphs change meanwhile, nothing is
    stored in it, and UserError is raised; the file of `--output` is written in any case. If only times and bytes are
    measured, they are not stored in the bundle: a report measures both itself. workers: worker processes to use instead
    of those that the options request.
    """
    task = open_measure_task(options)
    if task.judged is not None:
        check_memory(task.judged.needs(ROOM), options.bundle)
    task.estimate().announce()
    measured, _ = run_measurement(task, progress, workers)
    if options.output is not None:
        write_atomic(options.output, encode(measured))
    elif task.judged is not None:
        with open_if_unchanged(task.bundle, "give --output FILE.json") as writer:
            assert writer.manifest is not None, "the bundle exists"
            stored = writer.add(encode(measured), folder="report", name="measured", suffix=".json")
            writer.commit(msgspec.structs.replace(writer.manifest, evaluation=stored))
    return measured


def open_measure_task(options: MeasureOptions) -> MeasureTask:
    """Open the task of a measurement, after all checks that need only the float32 body. Raises UserError if a check
    fails."""
    bundle, wanted = options.open(), set(options.columns)
    judged = _open_judged_task(bundle, options) if wanted & {"psnr", "fd"} else None
    if judged is None and options.output is not None:
        check_writable(options.output)
    plans: Mapping[str, Plan] = {} if judged is None else {FLOAT: judged.plan, **judged.plans}
    timed = _select_timed_bodies(bundle, options, plans) if "ms" in wanted else None
    first = FLOAT if judged else timed.here[0] if timed else next(iter(bundle.manifest.bodies))
    plans = (
        timed.plans
        if timed
        else plans or select_timed_plans(bundle, [first], options.plan, options.guidance, options.threads)
    )
    return MeasureTask(
        bundle=bundle,
        plan=plans[first],
        command=options.command_line("measure"),
        setup=options.setup,
        judged=judged,
        timed=timed,
        sizes={name: call_bytes(bundle, name) for name in common_bodies(bundle.manifest)} if "bytes" in wanted else {},
        notes=() if timed is None else tuple(timing_notes(bundle, timed, options.backend)),
    )


def _open_judged_task(bundle: Bundle, options: MeasureOptions) -> JudgedTask:
    """Prepare the comparison of bodies sample by sample and, for the column fd, as sets of samples. Raises UserError if
    the results could not be written afterwards."""
    manifest, extractor, data = bundle.manifest, None, None
    names = _select_names(bundle, options.body)
    shape, space = manifest.x_shape, manifest.space
    if "fd" in options.columns:
        name = options.features or default_extractor(manifest)
        extractor = open_extractor(name, shape, options.threads, space.dtype)
    if options.data is not None:
        if extractor is None:
            raise UserError("--data without an extractor", "name an extractor with --features, and add the column fd")
        data = open_data(options.data, shape, space)
    task = options.open_judged_task(bundle, names)
    check_output(task, options.output, ROOM, "figures", ".json")
    if others := [name for name, plan in task.plans.items() if plan != task.plan]:
        what = f"{task.plan.name} is a different plan for {', '.join(others)}"
        raise UserError(what, f"measure each body separately: --body {others[0]}")
    return replace(task, featured=options.samples, resamples=options.resamples, extractor=extractor, data=data)


def _select_timed_bodies(bundle: Bundle, options: MeasureOptions, plans: Mapping[str, Plan]) -> TimedBodies:
    """Return the bodies to time, each along its plan in `plans`, or else in `select_timed_plans`."""
    here, elsewhere = select_local_bodies(bundle), select_backend_bodies(bundle, options.backend)
    timed = [*here, *(body for _, body in elsewhere)]
    if not set(timed) <= plans.keys():
        plans = {**select_timed_plans(bundle, timed, options.plan, options.guidance, options.threads), **plans}
    return TimedBodies(here, elsewhere, plans, options.turns())


def _select_names(bundle: Bundle, names: Sequence[str]) -> list[str]:
    """Return the names of the bodies to compare with float32: those given by the user; without them, the int8 bodies
    that are not simulated, or all int8 bodies if all are simulated."""
    bodies = int8_bodies(bundle)
    if not names:
        deployed = [name for name, body in bodies.items() if not is_simulated(body)]
        return deployed or list(bodies)
    for name in names:
        if name in (refused := find_excluded_bodies(bundle)):
            raise refused[name]
        if name not in bodies:
            raise UserError(f"{bundle.path} has no int8 body {name!r}", f"give some of {', '.join(bodies)}")
    return list(names)
