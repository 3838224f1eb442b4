"""Store the steps that a pipeline's scheduler makes in the bundle, if fewstep has no rules that reproduce them."""

import logging
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

from fewstep.pipelines.comparison import check_updates
from fewstep.pipelines.recorded_pipeline import RecordedPipeline
from fewstep.pipelines.recording.settings import STEP_COUNT
from fewstep.pipelines.recording.stand_ins import recording_error
from fewstep.pipelines.relations.measured_schedule import check_prediction_of_config, measure_schedule
from fewstep.pipelines.relations.networks import RecordedNetworks
from fewstep.pipelines.relations.pipeline_scheduler import PipelineScheduler
from fewstep.pipelines.relations.step_fit import fit_steps
from fewstep.plans.configs.classes import CLASSES, schedule_from_scheduler_config
from fewstep.plans.configs.pipelines import RECORDED, UNHELD_START
from fewstep.plans.configs.recorded import Recorded, RecordedSteps, read_steps
from fewstep.plans.configs.schedules import Described
from fewstep.plans.errors import UserError

LOG = logging.getLogger("fewstep")


def find_scheduler(recorded: RecordedPipeline, modules: RecordedNetworks, label: str) -> PipelineScheduler:
    """Return the scheduler of a pipeline: by the rules of its class if these give the recorded steps, otherwise with
    the recorded steps themselves.

    Steps are compared for the number of steps of the usual call, and for another one. No network runs. Raises UserError
    if neither works.
    """
    calls = _calls(recorded)
    try:
        return _check_rules(recorded, modules, calls, _read_rules(recorded))
    except UserError as reason:
        try:
            found = _check(recorded, modules, calls, _store_steps(recorded, calls))
        except UserError as error:
            what = reason.what if error.what == reason.what else f"{reason.what}; {error.what}"
            raise UserError(what, error.fix) from error
        numbers = " and ".join(f"scheduler:{number}" for number in read_steps(found.config) or ())
        LOG.warning(
            "%s: the bundle stores the steps of %s as recorded, since %s. It has %s; for another number of steps, "
            "export with --call %s=N",
            *(label, _class_name(recorded), reason.what, numbers, STEP_COUNT),
        )
        return found


def _calls(recorded: RecordedPipeline) -> list[Mapping[str, Any]]:
    """Return the calls whose steps are compared."""
    usual = recorded.settings.of()
    other = recorded.settings.other_steps
    return [usual] if other is None else [recorded.settings.of(None, {STEP_COUNT: other}), usual]


def _class_name(recorded: RecordedPipeline) -> str:
    return type(recorded.built.pipeline.scheduler).__name__


def _read_rules(recorded: RecordedPipeline) -> PipelineScheduler:
    """Return the scheduler if fewstep has rules for its class that reproduce it. Raises UserError otherwise."""
    if recorded.rules_error is not None:
        raise recorded.rules_error
    if recorded.relations.seconds:
        raise recording_error(f"the network of {recorded.built.name} gets the time at which a step ends")
    if recorded.built.converts:
        raise recording_error(f"{recorded.built.name} converts what its network predicts, with x")
    return PipelineScheduler(recorded.scheduler, schedule_from_scheduler_config(recorded.scheduler))


def _check_rules(
    recorded: RecordedPipeline,
    modules: RecordedNetworks,
    calls: Sequence[Mapping[str, Any]],
    scheduler: PipelineScheduler,
) -> PipelineScheduler:
    """Return the scheduler, as `_check` does. A pipeline that keeps a part of x may set it before the first step, or
    begin with noise everywhere: the recorded steps show which."""
    try:
        return _check(recorded, modules, calls, scheduler)
    except UserError:
        if not recorded.holds:
            raise
        return _check(recorded, modules, calls, replace(scheduler, config={**scheduler.config, UNHELD_START: True}))


def _check(
    recorded: RecordedPipeline,
    modules: RecordedNetworks,
    calls: Sequence[Mapping[str, Any]],
    scheduler: PipelineScheduler,
) -> PipelineScheduler:
    """Return the scheduler. Raises UserError unless its plans make the steps of the calls."""
    for call in calls:
        check_updates(recorded.built, modules, call, scheduler)
    return scheduler


def _store_steps(recorded: RecordedPipeline, calls: Sequence[Mapping[str, Any]]) -> PipelineScheduler:
    """Return the scheduler with its recorded steps. Raises UserError for steps that are not sums with fixed weights,
    and for a class whose noise schedule is unknown and cannot be measured."""
    built, stored, described = recorded.built, {}, None
    for call in calls:
        steps = fit_steps(built, recorded.relations, call)
        stored[int(call.get(STEP_COUNT, len(steps.steps)))] = steps
        if described is None:
            described = _describe(recorded, steps)
    assert described is not None, "a pipeline has a usual call"
    rules = Recorded(shaping=recorded.rules.shaping, steps=stored)
    return PipelineScheduler({**recorded.config, RECORDED: rules.to_config()}, described, recorded.heads)


def _describe(recorded: RecordedPipeline, steps: RecordedSteps) -> Described:
    """Return the noise schedule and the prediction of a scheduler, from its config if its class is known. The steps
    then show whether the prediction is that of the config."""
    name = _class_name(recorded)
    if recorded.built.converts or recorded.scheduler.get("_class_name") not in CLASSES:
        return measure_schedule(recorded.built.pipeline.scheduler, steps)
    described = schedule_from_scheduler_config(recorded.scheduler)
    if not check_prediction_of_config(name, described, steps):
        LOG.warning("%s: no recorded step shows that its network predicts %s, as its config says", name, described[1])
    return described
