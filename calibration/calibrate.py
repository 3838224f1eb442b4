"""`fewstep calibrate`: measure a bundle along the plan it will run, and lower its body to int8 for each target."""

from collections.abc import Callable, Mapping
from concurrent.futures import Executor
from dataclasses import dataclass, field, replace
from functools import partial

from fewstep.calibration.activation_counts import count_activations, tabulate_targets
from fewstep.calibration.body_maker import BodyMaker
from fewstep.calibration.checkpoint import open_checkpoint
from fewstep.calibration.commit import CalibratedNetwork, add_bodies, store_body
from fewstep.calibration.cost import announce_cost, announce_evaluations, records_first
from fewstep.calibration.failed_bodies import (
    forget_refusals,
    raise_failures,
    select_makeable_targets,
    store_refusals,
    try_targets,
)
from fewstep.calibration.float_runs import FloatRuns, try_judge_of
from fewstep.calibration.open_task import open_tasks
from fewstep.calibration.options import CalibrateOptions, check_options
from fewstep.calibration.resource_needs import estimate_needs
from fewstep.calibration.second_moments import follow_first_trajectories
from fewstep.calibration.task import Task
from fewstep.calibration.together import judge_together
from fewstep.graph.files.commit import Writer, open_for_update
from fewstep.graph.resource_needs import check_needs
from fewstep.measure.workers.setup import WorkerSetup, start_workers
from fewstep.plans.any_plan import regroup
from fewstep.plans.plan import DENOISER
from fewstep.runtime.bundle.manifest import Manifest
from fewstep.runtime.bundle.networks import select_network
from fewstep.runtime.progress import SILENT, Progress, prefix_stages


@dataclass(frozen=True)
class Calibration(CalibratedNetwork):
    """The calibrated denoiser. `manifest` is the committed manifest, reduced to this network, and `others` holds the
    other networks by name."""

    manifest: Manifest
    others: Mapping[str, "Calibration"] = field(default_factory=dict)


def calibrate(
    options: CalibrateOptions,
    progress: Progress = SILENT,
    workers: Executor | None = None,
    after_checks: Callable[[], object] | None = None,
) -> Calibration:
    """Calibrate a bundle and return its int8 bodies. All bodies and their ranges are committed at once.

    workers: to use instead of those that the options request. after_checks: called when the options fit the bundle.
        Raises UserError, which names the targets that failed; the bodies of the others are in the bundle by then.
    """
    checked = check_options(options)
    with open_for_update(options.bundle, must_exist=True, verb="calibrate") as writer:
        assert writer.opened is not None, "the bundle exists"
        tasks = open_tasks(writer.opened, options, checked, is_estimate=False)
        for task in tasks.values():
            check_needs(estimate_needs(task, options.workers), writer)
        if after_checks is not None:
            after_checks()
        if not (is_recorded_first := records_first([*tasks.values()])):
            announce_cost([*tasks.values()])
        try_judge_of(next(iter(tasks.values())))
        manifest, calibrated = writer.opened.manifest, dict[str, CalibratedNetwork]()
        for name, task in tasks.items():
            shown = prefix_stages(progress, name) if len(tasks) > 1 else progress
            calibrated[name] = _calibrate_network(task, writer, options.setup, workers, shown, is_recorded_first)
            manifest = add_bodies(writer, manifest, task, calibrated[name])
        manifest = writer.commit(manifest)
    forget_refusals(writer.opened, calibrated.values())
    raise_failures(calibrated)  # keeps the counts for the next attempt
    for result in calibrated.values():
        result.checkpoint.drop()
    if len(calibrated) > 1:
        manifest, calibrated[DENOISER] = judge_together(tasks[DENOISER], calibrated[DENOISER])
    made = {name: Calibration(**vars(own), manifest=select_network(manifest, name)) for name, own in calibrated.items()}
    return replace(made.pop(DENOISER), others=made)


def _calibrate_network(
    task: Task,
    writer: Writer,
    setup: WorkerSetup,
    executor: Executor | None,
    progress: Progress,
    is_recorded_first: bool = False,
) -> CalibratedNetwork:
    """Return the int8 bodies of a task's network: count activations, choose ranges, lower, judge, and write files.

    Targets fail independently: in `open_tasks`, after counting (`select_makeable_targets`), or while their body is
    written and compared with float32. `is_recorded_first`: see `records_first`. Raises UserError if no body can be
    made.
    """
    runs = FloatRuns(task, regroup(task.plan, {task.network: task.edges}), progress)
    if is_recorded_first:
        runs.record_all(partial(announce_evaluations, [task]))
    with start_workers(
        setup, executor
    ) as workers:  # they end before bodies are judged: each holds the weights of a body
        checkpoint = open_checkpoint(task, task.threads if workers is None else workers.threads)
        counts = count_activations(task, progress, checkpoint, workers) if task.quantizes_activations else None
        usable = select_makeable_targets(task, counts)
        first = follow_first_trajectories(task, progress, workers)
    tables = {} if counts is None else tabulate_targets(task, counts, progress)
    runs.record_judging()  # now, while no body is in memory
    runs.close()
    large = writer if task.sampler.body.graph.data else None  # large weights are written before they are run
    maker = BodyMaker(task, counts, tables, first, runs, large, progress)
    make_body = store_refusals(maker.make_body, task.sampler.bundle)
    bodies = try_targets(tuple(usable.made.values()), make_body, usable.failed, partial(progress, "lowering"))
    return CalibratedNetwork(
        plan=runs.plan,
        table=next(iter(tables.values()), None),  # targets with floats come first, if there are any
        bodies={name: store_body(writer, name, body, task, runs.plan) for name, body in bodies.made.items()},
        lowered={name: body.last_body for name, body in bodies.made.items()},
        searches={name: body.search for name, body in bodies.made.items() if body.search is not None},
        failed=bodies.failed,
        checkpoint=checkpoint,
    )
