"""`fewstep calibrate`: say what became int8."""

from collections.abc import Iterator
from time import perf_counter

from fewstep.calibration.calibrate import SELECTION, CalibrateOptions, Calibration, calibrate, check_options, open_task
from fewstep.calibration.drawing.plan_view import headline
from fewstep.calibration.inputs import long_plan
from fewstep.calibration.ranges.observe import observed_tensors
from fewstep.calibration.speed.staged import int8_share
from fewstep.calibration.task import Task
from fewstep.calibration.trajectories import BATCH, roll_out
from fewstep.cli.outcome import Outcome, counted
from fewstep.graph.commit import open_for_update
from fewstep.runtime.guidance import describe
from fewstep.runtime.progress import Progress


def verb(options: CalibrateOptions, progress: Progress) -> Outcome:
    calibration = calibrate(options, progress)
    value = {
        "bundle": options.bundle,
        "plan": calibration.plan.name,
        "guidance": describe(calibration.plan.guidance),
        "bodies": {
            name: {
                "coverage": calibration.manifest.bodies[name].coverage,
                "int8_share": int8_share(calibration.manifest.bodies[name], calibration.plan),
                "graphs": 1 + len(calibration.manifest.bodies[name].stages),
                "groups": len(lowered.groups) + 1,
                "notes": lowered.notes,
                "selection_psnr": refined.point.quality if (refined := calibration.refined.get(name)) else None,
            }
            for name, lowered in calibration.lowered.items()
        },
    }
    return Outcome(value, tuple(_lines(options, calibration)))


def dry_run(options: CalibrateOptions) -> Outcome:
    check_options(options)
    with open_for_update(options.bundle, must_exist=True):
        task = open_task(options)
    followed = task.plan if options.inputs in ("deployed", "progressive") else long_plan(task)
    evaluations = len(followed.steps) * -(-len(task.seeds) // BATCH)
    seconds = evaluations * _evaluation_seconds(task)
    bodies = [f"int8-{target.name}" for target in task.targets]
    tensors = len(observed_tensors(task.prepared))
    return Outcome(
        {
            "bundle": options.bundle,
            "plan": task.plan.name,
            "trajectories": len(task.seeds),
            "evaluations": evaluations,
            "at_least_seconds": seconds,
            "bodies": bodies,
            "operations": task.operations,
        },
        (
            headline(task.plan),
            f"would follow {len(task.seeds)} trajectories and watch {tensors} tensors in {len(task.edges) + 1} groups",
            f"would lower {len(task.operations)} operations, to {', '.join(bodies)}",
            f"{evaluations} evaluations of the float denoiser take {seconds:.0f} s here; measuring them takes longer",
        ),
    )


def _evaluation_seconds(task: Task) -> float:
    """Of one evaluation of a batch: the second, since the first allocates."""
    plan = task.plan if len(task.plan.steps) > 1 else task.sampler.compile("ddim:2", task.plan.guidance)
    evaluations = roll_out(task.sampler, plan, task.seeds[:BATCH])
    next(evaluations)
    start = perf_counter()
    next(evaluations)
    return perf_counter() - start


def _lines(options: CalibrateOptions, calibration: Calibration) -> Iterator[str]:
    for name, lowered in calibration.lowered.items():
        body = calibration.manifest.bodies[name]
        coverage = body.coverage or lowered.coverage
        share = int8_share(body, calibration.plan) or 0.0
        last = " (of the last steps)" if body.stages else ""
        yield (
            f"{options.bundle}: {name}, {len(coverage.int8_ops)} of "
            f"{len(coverage.int8_ops) + len(coverage.float_ops)} weighted operations{last} and "
            f"{100 * share:.1f} % of MACs in int8, "
            f"{counted(len(lowered.groups) + 1, 'group')} of ranges along {calibration.plan.name}"
        )
        refined = calibration.refined.get(name)
        if refined is not None:
            point, measured = refined.point, refined.sensitivity
            yield (
                f"  graphs: {1 + len(body.stages)}; on {SELECTION} seeds of the search {point.quality:.1f} dB from "
                f"float32 at about {measured.float_time / point.time:.2f}x its speed; all int8 "
                f"{measured.quality:.1f} dB, {measured.float_time:.2f}x"
            )
        for note in lowered.notes:
            yield f"  {note}"
