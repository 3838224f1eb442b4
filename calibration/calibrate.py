"""`fewstep calibrate`: measure a bundle along the plan it will run, and lower its body to int8 for each target."""

from collections.abc import Callable, Mapping
from concurrent.futures import Executor
from contextlib import AbstractContextManager
from dataclasses import dataclass, field, replace
from functools import partial

from fewstep.calibration.bounded import search_for
from fewstep.calibration.calibrated_body import BodyMaker, CalibratedBody, check_near, judging_course
from fewstep.calibration.checkpoint import Checkpoint, checkpoint_of
from fewstep.calibration.commit import added
from fewstep.calibration.cost import announce
from fewstep.calibration.count import count_activations, of_part, tabulate
from fewstep.calibration.failed_bodies import body_of, caught, check_some_left, makeable, some_failed
from fewstep.calibration.lowering.quantize import LoweredBody
from fewstep.calibration.needs import needs
from fewstep.calibration.opened_task import open_task
from fewstep.calibration.options import CalibrateOptions, check_options
from fewstep.calibration.precision.refine import SearchResult
from fewstep.calibration.ranges.observe import observed_tensors
from fewstep.calibration.ranges.table import RangesTable
from fewstep.calibration.second_moments import second_moments
from fewstep.calibration.spare import sparing_for
from fewstep.calibration.task import Task
from fewstep.graph import io
from fewstep.graph.commit import Writer, open_for_update
from fewstep.graph.needs import check_needs
from fewstep.measure.workers.job import Workers
from fewstep.measure.workers.setup import opened
from fewstep.plans.any_plan import AnyPlan, regroup
from fewstep.plans.errors import UserError
from fewstep.plans.plan import DENOISER
from fewstep.runtime.bundle.manifest import Manifest
from fewstep.runtime.bundle.networks import alone, labelled, networks
from fewstep.runtime.bundle.reading import open_bundle
from fewstep.runtime.progress import SILENT, Progress, under

OpenWorkers = Callable[[], AbstractContextManager[Workers | None]]


@dataclass(frozen=True)
class Calibration:
    """The outcome of a calibration. `lowered` is by body name, e.g. "int8-cpu-x86". `refined` has the search for
    a body that a bound deploys. `manifest` is of the network alone, and `others` are of the other networks."""

    manifest: Manifest
    plan: AnyPlan
    table: RangesTable
    lowered: Mapping[str, LoweredBody]
    refined: Mapping[str, SearchResult]
    others: Mapping[str, "Calibration"] = field(default_factory=dict)


def calibrate(options: CalibrateOptions, progress: Progress = SILENT, workers: Executor | None = None) -> Calibration:
    """Roll the float denoiser out, measure ranges, lower for every target, and commit all bodies at once.

    UserError names targets that failed; bodies of the others are in the bundle then. `workers` of the caller are used
    instead of those that the options name.
    """
    check_options(options)
    with open_for_update(options.bundle, must_exist=True, verb="calibrate") as writer:
        names = networks(open_bundle(options.bundle).manifest)
        tasks = {name: open_task(options, name) for name in names}
        for task in tasks.values():
            check_needs(needs(task, options.workers), writer)
        announce([*tasks.values()])
        open_workers = partial(opened, options.setup, workers)
        assert writer.manifest is not None
        manifest, made, failed, checkpoints = writer.manifest, dict[str, Calibration](), dict[str, UserError](), []
        for name, task in tasks.items():
            shown = under(progress, name) if len(names) > 1 else progress
            made[name], errors, checkpoint = _calibrate_network(task, writer, manifest, shown, open_workers)
            manifest = made[name].manifest
            failed |= {labelled(name, body): error for body, error in errors.items()}
            checkpoints.append(checkpoint)
        manifest = writer.commit(manifest)
    if failed:
        written = [labelled(name, body) for name, each in made.items() for body in each.lowered]
        raise some_failed(failed, written)  # the counts stay for the next try
    for checkpoint in checkpoints:
        checkpoint.drop()
    made = {name: replace(each, manifest=alone(manifest, name)) for name, each in made.items()}
    return replace(made.pop(DENOISER), others=made)


def _calibrate_network(
    task: Task, writer: Writer, manifest: Manifest, progress: Progress, open_workers: OpenWorkers
) -> tuple[Calibration, dict[str, UserError], Checkpoint]:
    """Calibrate one network. UserError if no body can be made.

    The calibration has the whole bundle's manifest, which is not committed yet. With it come the errors of bodies that
    were not made, and the checkpoint of the counts.
    """
    bundle = task.sampler.bundle
    digest = io.sha256(bundle.graph(task.sampler.body.graph))
    with open_workers() as workers:  # they end before bodies are judged: each holds the weights of a body
        checkpoint = checkpoint_of(task, digest, task.threads if workers is None else workers.threads)
        counts = count_activations(task, progress, checkpoint, workers)
        failed = dict(task.refused)
        targets = makeable(task.targets, counts, observed_tensors(task.prepared), failed)
        moments = second_moments(task, progress, workers)
    table_of = partial(tabulate, counts, task.prepared, digest, task.plan.name, progress)
    whether = sorted({target.scheme.everything for target in task.targets})
    tables = {everything: table_of(everything=everything) for everything in whether}
    table = next(iter(tables.values()))  # of targets with floats, if there are some
    plan = regroup(task.plan, {task.network: counts.edges})
    course = judging_course(task, plan, progress)
    large = writer if task.sampler.body.graph.data else None  # large weights are written before they are run
    spare = sparing_for(task, plan, progress)
    part_of = partial(of_part, table, counts, task.prepared)
    maker = BodyMaker(task, tables, moments, course, large, spare, part_of)
    search, bodies, refined = search_for(task, plan, progress), dict[str, CalibratedBody](), dict[str, SearchResult]()
    for done, target in enumerate(targets, 1):
        with caught(failed, target):
            body = maker.body(target)
            found = search(body.variants)
            if found is not None:
                body = maker.judged(found.variants)
            check_near(body, has_bound=found is not None)
            bodies[body_of(target)] = body
            refined |= {} if found is None else {body_of(target): found}
        progress("lowering", done, len(targets))
    check_some_left(targets, failed)
    manifest = added(writer, manifest, task, plan, table, bodies, refined)
    lowered = {name: each.lowered for name, each in bodies.items()}
    return Calibration(manifest, plan, table, lowered, refined), failed, checkpoint
