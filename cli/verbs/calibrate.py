"""`fewstep calibrate`: make int8 bodies, and print how many operations are in int8, and the quality of the samples."""

import logging
from functools import cache, partial

from fewstep.calibration.calibrate import calibrate
from fewstep.calibration.cost import estimate_cost
from fewstep.calibration.failed_bodies import target_body_name
from fewstep.calibration.float_runs import further_seeds
from fewstep.calibration.open_task import open_tasks
from fewstep.calibration.options import CalibrateOptions, check_options
from fewstep.calibration.resource_needs import estimate_needs
from fewstep.calibration.second_moments import TRAJECTORIES
from fewstep.cli.describe.calibration import (
    calibration_lines,
    describe_calibration,
    describe_preparation,
    describe_search_cost,
    warn_of_losses,
)
from fewstep.cli.malloc_arenas import use_one_heap
from fewstep.cli.next_command import next_after_calibration
from fewstep.cli.outcome import Outcome, pluralize
from fewstep.graph.files.commit import open_for_update
from fewstep.graph.resource_needs import check_needs, combine_needs, format_duration
from fewstep.measure.rollouts.recorded_run import AT_ONCE
from fewstep.measure.rollouts.seeds import BODY_SEEDS
from fewstep.measure.rollouts.trajectories import trajectories_text
from fewstep.measure.workers.setup import warn_of_workers
from fewstep.plans.any_plan import plan_headline
from fewstep.report.call_time import valid_calls
from fewstep.report.choosing.int8_speedup import describe_gain, time_bf16
from fewstep.report.choosing.whole_call import time_calls
from fewstep.runtime.bundle.reading import open_bundle
from fewstep.runtime.progress import Progress

LOG = logging.getLogger("fewstep")


def verb(options: CalibrateOptions, progress: Progress) -> Outcome:
    use_one_heap()
    time_once = cache(partial(time_bf16, options.bundle, options.targets, options.threads))
    calibration = calibrate(options, progress, after_checks=time_once)  # a wrong option does not wait for the timing
    warn_of_losses(options, calibration)
    value = describe_calibration(options, calibration)
    targets = {name: body.target for name, body in calibration.bodies.items()}
    gain = describe_gain(options.bundle, targets, time_once(), options.threads)
    calls = time_calls(options.bundle, targets, options.threads, options.timing_conditions)
    lines = (*calibration_lines(options, calibration), *gain, *calls)  # which store the times
    value["calls"] = [call for call in valid_calls(open_bundle(options.bundle).manifest) if call.body in targets]
    return Outcome(value, lines, then=next_after_calibration(options, calibration))


def dry_run(options: CalibrateOptions) -> Outcome:
    checked = check_options(options)
    with open_for_update(options.bundle, must_exist=True, verb="calibrate") as writer:
        assert writer.opened is not None, "the bundle exists"
        tasks = [*open_tasks(writer.opened, options, checked).values()]
        needed = combine_needs([estimate_needs(task, options.workers) for task in tasks])
        check_needs(needed, writer)
    task = tasks[-1]  # the denoiser's; the trajectories of each network are complete runs
    warn_of_workers(options.setup)
    cost = estimate_cost(tasks)
    judges, further = BODY_SEEDS[: len(task.seeds)], sum(map(len, further_seeds(task)))
    operations = tuple(name for task in tasks for name in task.operations)
    bodies = [target_body_name(target) for target in task.targets]
    return Outcome(
        {
            "bundle": options.bundle,
            "plan": task.plan.name,
            "trajectories": len(task.seeds),
            "evaluations": cost.counted,
            "judging_evaluations": cost.judged,
            "search_evaluations": cost.searched,
            "about_seconds": cost.estimate.seconds,
            "recording_seconds": cost.recording,
            "bodies": bodies,
            "operations": operations,
            "needs": needed,
        },
        (
            plan_headline(task.plan),
            f"would sample {trajectories_text(len(task.seeds))} and record the ranges of "
            f"{sum(len(task.tensors) for task in tasks)} tensors in "
            f"{sum(len(task.edges) + 1 for task in tasks)} groups of steps",
            f"would quantize {len(operations)} operations, for {', '.join(bodies)}",
            f"{cost.counted} evaluations of one sample ({len(task.plan.steps)} steps each) take "
            f"{format_duration(cost.counted * cost.seconds)} here in float32",
            f"would sample {trajectories_text(min(TRAJECTORIES, len(task.seeds)))} again to round the weights",
            f"would judge each int8 graph on {pluralize(len(judges), 'sample')}, and what is written on up to "
            f"{further} more: {cost.judged} evaluations of one sample, {format_duration(cost.judged * cost.seconds)} "
            "at float32's speed",
            *(f"would not make {name}: {error}" for name, error in task.refused.items()),
            *describe_search_cost(cost.searched, AT_ONCE * cost.seconds),
            f"all evaluations take about {format_duration(cost.estimate.sampling)} at float32's speed"
            f"{cost.estimate.describe_load()}",
            *describe_preparation(cost, options.setup),
            needed.describe(options.bundle),
        ),
    )
