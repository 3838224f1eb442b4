"""The denoiser of a pipeline's folder whose class fewstep does not list: recorded, checked, and wrapped."""

import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

from torch import nn

from fewstep.export.sources.diffusers.files import CONFIG, Folder, hash_files
from fewstep.export.sources.diffusers.loading import load_network
from fewstep.export.sources.diffusers.pipeline import PipelineNetworks
from fewstep.export.sources.diffusers.recording.adapter import RecordedNetwork
from fewstep.export.sources.diffusers.recording.arguments import BATCH, ENCODERS, NetworkArguments, sort_arguments
from fewstep.export.sources.diffusers.recording.comparison import compare_samples, describe_guidance, is_comparable
from fewstep.export.sources.diffusers.recording.components import BuiltPipeline, build_pipeline
from fewstep.export.sources.diffusers.recording.decoding import read_companions, read_from_memory, read_stored
from fewstep.export.sources.diffusers.recording.live import build_from_pipeline
from fewstep.export.sources.diffusers.recording.quiet import silence_libraries
from fewstep.export.sources.diffusers.recording.record import CallRecord, record, record_times
from fewstep.export.sources.diffusers.recording.relations import Relations, check_relations, find_relations
from fewstep.export.sources.diffusers.recording.schedule_rules import find_rules
from fewstep.export.sources.diffusers.recording.settings import STEP_COUNT, STRENGTH, CallSettings, choose_settings
from fewstep.export.sources.diffusers.recording.stand_ins import recording_error
from fewstep.export.sources.torch_module import TorchSource
from fewstep.export.spec import Spec
from fewstep.plans.configs.classes import schedule_from_scheduler_config
from fewstep.plans.configs.pipelines import PIPELINE, RECORDED
from fewstep.plans.errors import UserError

LOG = logging.getLogger("fewstep")
MORE_STEPS = 8


class RecordedPipeline:
    """A pipeline with the relations and the arguments that its recordings show."""

    def __init__(
        self,
        built: BuiltPipeline,
        other: BuiltPipeline,
        settings: CallSettings,
        scheduler: Mapping[str, Any],
        first: CallRecord | None = None,
    ) -> None:
        """Record the call of a pipeline with all settings. Raises UserError for what no relation describes.

        other: the same pipeline, with encoders that return other values. first: the recording of the usual call.
        """
        name = built.name
        self.built, self.settings = built, settings
        base, reseeded = first or record(built, settings.of(), 0), record(built, settings.of(), 1)
        self.relations: Relations = find_relations(name, base, reseeded)
        variants: dict[str, CallRecord] = {}
        for seed, setting in enumerate(settings.variants, 2):
            variants[setting] = record(built, settings.of(setting), seed)
            check_relations(name, self.relations, variants[setting], setting)
        self.batch, batch = self._record_batch()
        variants |= {} if batch is None else {BATCH: batch}
        variants[ENCODERS] = record(other, settings.of(), 0)
        longer = (
            [record(built, settings.of(None, {STEP_COUNT: MORE_STEPS}), 99)] if STEP_COUNT in settings.usual else []
        )
        for each in longer:
            check_relations(name, self.relations, each, "number of steps")
        self.arguments: NetworkArguments = sort_arguments(name, self.relations, base, variants)
        records = [base, reseeded, *variants.values(), *longer]
        rules = find_rules(name, records, scheduler, self._record_sigmas) | self._norm_rule()
        self.scheduler = {**scheduler, RECORDED: rules}
        self.x_shape = tuple(base.steps[0].sample.shape[1:])

    def _norm_rule(self) -> dict[str, int]:
        """Return the field that `plans.configs.pipelines.read_recorded` reads for a norm that guidance keeps."""
        norm = self.relations.combination.norm
        if norm is None:
            return {}
        if norm.branch != self.arguments.conditional:
            raise recording_error(f"{self.built.name} scales its guided output to the norm of another branch")
        return {"norm_axis": norm.axis}

    def _record_batch(self) -> tuple[Mapping[str, Any], CallRecord | None]:
        """Record two samples by the first settings that the pipeline accepts. Returns these, or none."""
        for settings in self.settings.batches:
            try:
                found = record(self.built, self.settings.of(None, settings), 98)
            except UserError:
                continue
            if len(found.steps[0].sample) > 1:
                check_relations(self.built.name, self.relations, found, BATCH)
                return settings, found
        return {}, None

    def _record_sigmas(self, count: int) -> Sequence[float] | None:
        """Return the sigmas that the pipeline passes to its scheduler for a number of steps."""
        try:
            times = record_times(self.built, self.settings.of(None, {STEP_COUNT: count}))
        except Exception:  # some pipelines refuse few steps
            return None
        sigmas: Sequence[float] | None = times.get("sigmas")
        return sigmas


def record_folder(folder: Folder, scheduler: Mapping[str, Any], given: Mapping[str, Any]) -> RecordedPipeline:
    """Record the pipeline of a folder. `given` are arguments of its call. No weights are loaded."""
    with silence_libraries():
        built = build_pipeline(folder)
        other = build_pipeline(folder, seed=1)
        settings, first = _record_usual_call(built, given)
        return RecordedPipeline(built, other, settings, scheduler, first)


def _record_usual_call(built: BuiltPipeline, given: Mapping[str, Any]) -> tuple[CallSettings, CallRecord]:
    """Record the usual call of a pipeline, with pictures if it fails without. Raises the first error otherwise."""
    settings = choose_settings(built.pipeline, given)
    try:
        return settings, record(built, settings.of(), 0)
    except UserError as error:
        with_pictures = choose_settings(built.pipeline, given, has_pictures=True)
        if set(with_pictures.usual) == set(settings.usual):
            raise
        try:
            return with_pictures, record(built, with_pictures.of(), 0)
        except UserError as other:
            raise other from error


def load_recorded_folder(folder: Folder, scheduler: Mapping[str, Any], given: Mapping[str, Any]) -> TorchSource:
    """Load the denoiser of a folder as its pipeline calls it, compared with the pipeline's own samples."""
    recorded = record_folder(folder, scheduler, given)
    home = folder.path / recorded.relations.component
    network, files = load_network(home)
    with silence_libraries():
        companions = read_companions(
            str(folder.path), recorded.built, recorded.settings.of(), recorded.x_shape, partial(read_stored, folder)
        )
    more = () if companions is None else companions.files
    read = [home / CONFIG, folder.path / "scheduler" / "scheduler_config.json", *files, *more]
    origin = PipelineOrigin(folder.path.resolve().name, str(folder.path), hash_files(read))
    return _make_source(recorded, network, origin, companions)


def load_pipeline(pipeline: Any, label: str, sha256: str, given: Mapping[str, Any]) -> TorchSource:
    """Load the denoiser of a pipeline in memory as the pipeline calls it, compared with its own samples. `label` names
    the pipeline, and `sha256` is the digest of the code that made it."""
    if getattr(pipeline, "scheduler", None) is None:
        raise recording_error(f"{label}: {type(pipeline).__name__} has no scheduler")
    config = {name: value for name, value in pipeline.scheduler.config.items() if not name.startswith("_")}
    scheduler = {**config, "_class_name": type(pipeline.scheduler).__name__, PIPELINE: type(pipeline).__name__}
    with silence_libraries():
        built = build_from_pipeline(pipeline, label)
        other = build_from_pipeline(pipeline, label, seed=1)
        settings, first = _record_usual_call(built, given)
        recorded = RecordedPipeline(built, other, settings, scheduler, first)
        companions = read_companions(
            label, built, recorded.settings.of(), recorded.x_shape, partial(read_from_memory, pipeline)
        )
    network = getattr(pipeline, recorded.relations.component)
    return _make_source(recorded, network, PipelineOrigin(label, label, sha256), companions)


@dataclass(frozen=True)
class PipelineOrigin:
    """Where a pipeline comes from: the name of its bundle, its name in messages, and the digest of what was read."""

    name: str
    label: str
    sha256: str


def _make_source(
    recorded: RecordedPipeline, network: nn.Module, origin: PipelineOrigin, companions: PipelineNetworks | None
) -> TorchSource:
    """Wrap a denoiser with its weights, and compare its samples with those of its pipeline."""
    found, pipeline = recorded.relations, recorded.built.name
    schedule, prediction = schedule_from_scheduler_config(recorded.scheduler)
    spec = Spec(origin.name, recorded.x_shape, recorded.arguments.conditions, prediction, schedule)
    module = RecordedNetwork(network.float().eval(), found, recorded.arguments)
    if is_comparable(network):
        settings = recorded.settings.of(None, recorded.batch)
        with silence_libraries():
            difference = compare_samples(recorded.built, module, settings, recorded.scheduler)
        LOG.warning("%s: samples of %s agree within %.1g of their range", origin.label, pipeline, difference)
        if STRENGTH in settings:
            LOG.warning("%s was recorded at strength 1: a smaller --strength is not compared", pipeline)
    else:
        LOG.warning("%s: the network is too large to compare samples with those of %s", origin.label, pipeline)
    LOG.warning("%s: %s", origin.label, describe_guidance(module))
    if without := recorded.settings.without:
        LOG.warning("%s: recorded without %s, which its call may take", origin.label, ", ".join(without))
    return TorchSource(module, spec, origin.name, origin.sha256, None, recorded.scheduler, companions)
