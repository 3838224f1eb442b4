"""The networks of a pipeline with one network for the noisy steps and another for the later ones, such as Wan 2.2."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from math import log
from typing import Any

from fewstep.pipelines.recording.call_record import CallRecord, SchedulerStep
from fewstep.pipelines.recording.stand_ins import recording_error
from fewstep.pipelines.relations.adapter import RecordedNetwork
from fewstep.pipelines.relations.measured_schedule import find_noise_schedule
from fewstep.pipelines.relations.relations import Relations, check_relations, check_steps, find_relations
from fewstep.plans.configs.classes import CLASSES, schedule_from_scheduler_config
from fewstep.plans.schedule import NoiseSchedule

RATIO = "boundary_ratio"  # the pipeline's setting: the time of the last noisy step, relative to the first time


@dataclass(frozen=True)
class RecordedNetworks:
    """The networks of a pipeline, by the name of their component; the one for the noisiest steps is the first. If there
    are two, the first runs the steps with log-SNR below `until`. If there is one, `until` is None."""

    modules: Mapping[str, RecordedNetwork]
    until: float | None = None

    def at(self, step: SchedulerStep) -> RecordedNetwork:
        """Return the network that a recorded step called."""
        return self.modules[step.calls[0].component]

    @property
    def quiet(self) -> RecordedNetwork:
        """The network of the last steps."""
        return list(self.modules.values())[-1]

    def is_noisy(self, lam: float | None) -> bool:
        """Return True if the first of two networks runs at the log-SNR `lam`, where None stands for -infinity."""
        return self.until is not None and (lam is None or lam < self.until)

    def runs_first(self, step: SchedulerStep) -> bool:
        """Return True if a recorded step called the first of two networks."""
        return len(self.modules) > 1 and step.calls[0].component == next(iter(self.modules))


def split_record(name: str, record: CallRecord) -> dict[str, CallRecord]:
    """Split a recording into the steps of each network, in the order in which the networks first run. Raises UserError
    if one step calls several networks, or if a network runs again after another one has run."""
    steps: dict[str, list[SchedulerStep]] = {}
    for step in record.steps:
        components = sorted({call.component for call in step.calls})
        if len(components) != 1:
            raise recording_error(f"{name} calls {len(components)} networks in one step: {', '.join(components)}")
        if components[0] in steps and list(steps)[-1] != components[0]:
            raise recording_error(f"{name} calls {components[0]} again after another network")
        steps.setdefault(components[0], []).append(step)
    return {component: replace(record, steps=tuple(own)) for component, own in steps.items()}


def find_parts(name: str, base: CallRecord, reseeded: CallRecord) -> dict[str, Relations]:
    """Return the relations of each network. Raises UserError for more than two."""
    check_steps(name, base)
    parts, others = split_record(name, base), split_record(name, reseeded)
    if len(parts) > 2 or list(parts) != list(others):
        raise recording_error(f"{name} calls {len(parts)} networks: {', '.join(parts)}")
    relations = {component: find_relations(name, parts[component], others[component]) for component in parts}
    if len({(relation.x, relation.branches) for relation in relations.values()}) != 1:
        raise recording_error(f"{name} passes x to its networks in different ways: {', '.join(relations)}")
    return relations


def check_parts(
    name: str, found: Mapping[str, Relations], record: CallRecord, setting: str
) -> tuple[tuple[float, ...], ...]:
    """Check the relations of each network in a recording with other settings. Returns the weights of all steps."""
    check_steps(name, record)
    weights: tuple[tuple[float, ...], ...] = ()
    for component, own in split_record(name, record).items():
        if component not in found:
            raise recording_error(f"{name} calls {component} only if the {setting} changes")
        weights += check_relations(name, found[component], own, setting)
    return weights


def find_boundary(name: str, pipeline: Any, records: Sequence[CallRecord], components: Sequence[str]) -> float | None:
    """Return the log-SNR below which the first of two networks runs, which follows from the pipeline's setting. None if
    there is only one network.

    Raises UserError if a recording contradicts the setting.
    """
    if len(components) == 1:
        return None
    ratio, config = pipeline.config.get(RATIO), pipeline.scheduler.config
    if not isinstance(ratio, float) or not 0 < ratio < 1:
        raise recording_error(f"{name} calls two networks, {' and '.join(components)}, and has no {RATIO}")
    boundary = ratio * config.num_train_timesteps
    for record in records:
        for step in record.steps:
            if (step.calls[0].component == components[0]) != (step.time >= boundary):
                what = f"calls {step.calls[0].component} at time {step.time:.6g}, and its {RATIO} is {ratio:g}"
                raise recording_error(f"{name} {what}")
    return _lambda_at(pipeline.scheduler, ratio, records[-1]) + 1e-6  # a step at the boundary is noisy


def _lambda_at(scheduler: Any, ratio: float, last: CallRecord) -> float:
    """Return lambda, the log ratio of signal and noise, at `ratio` times the largest time. For a scheduler of an
    unknown class, the noise schedule is measured at the timesteps of the last recorded call, which are still set in the
    scheduler."""
    config = {name: value for name, value in scheduler.config.items() if not name.startswith("_")}
    if type(scheduler).__name__ in CLASSES:
        spec, _ = schedule_from_scheduler_config({**config, "_class_name": type(scheduler).__name__})
    else:
        spec = find_noise_schedule(scheduler, [step.time for step in last.steps])
    if spec.kind == "flow":
        return log((1 - ratio) / ratio)
    return float(NoiseSchedule(spec).time(ratio * config["num_train_timesteps"]).lam)
