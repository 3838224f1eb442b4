"""The denoiser of a pipeline of diffusers, in a folder or in memory: recorded, checked, and wrapped."""

import inspect
import logging
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from math import inf
from pathlib import Path
from typing import Any

from torch import nn

from fewstep.export.batches import batch_range
from fewstep.export.companions.networks import PipelineNetworks
from fewstep.export.expert import Expert
from fewstep.export.sources.model_files import CONFIG, hash_files
from fewstep.export.sources.torch_module import TorchSource
from fewstep.export.spec import Spec
from fewstep.export.tracing.weights.stored_halves import to_float32
from fewstep.graph.graph import TO
from fewstep.pipelines.companions.decoding import read_companions
from fewstep.pipelines.companions.recorded_text import read_recorded_text
from fewstep.pipelines.companions.stored_network import ReadNetwork, read_from_memory, read_stored
from fewstep.pipelines.compared_size import are_comparable
from fewstep.pipelines.comparison import LONG, compare_samples
from fewstep.pipelines.files.folder import Folder, refuse_onnx
from fewstep.pipelines.files.loading import load_network, outline_network
from fewstep.pipelines.files.scheduler import find_scheduler_file, read_scheduler
from fewstep.pipelines.free_sizes import RecordedSizes
from fewstep.pipelines.layout import find_layout
from fewstep.pipelines.recorded_pipeline import RecordedPipeline, record_pipeline
from fewstep.pipelines.recording.call_sizes import refuse_ignored_size
from fewstep.pipelines.recording.components import BuiltPipeline, build_pipeline
from fewstep.pipelines.recording.live import build_from_pipeline, find_components, find_own_encoders
from fewstep.pipelines.recording.network_state import refuse_cache
from fewstep.pipelines.recording.quiet import silence_libraries
from fewstep.pipelines.recording.settings import STRENGTH, CallSettings
from fewstep.pipelines.recording.stand_ins import LengthError, recording_error
from fewstep.pipelines.relations.networks import RecordedNetworks
from fewstep.pipelines.relations.pipeline_scheduler import PipelineScheduler
from fewstep.pipelines.size_search import follow_sizes
from fewstep.pipelines.stored_steps import find_scheduler
from fewstep.pipelines.students import warn_of_student
from fewstep.pipelines.usual_guidance import describe_guidance, find_weight
from fewstep.plans.configs.pipelines import PIPELINE
from fewstep.plans.configs.recorded import with_guidance
from fewstep.plans.errors import UserError
from fewstep.runtime.bundle.manifest import Condition

LOG = logging.getLogger("fewstep")


def record_folder(
    folder: Folder, given: Mapping[str, Any], pads_texts: bool = True, without: Sequence[str] | None = None
) -> RecordedPipeline:
    """Record the pipeline of a folder. `given` are arguments of its call. No weights are loaded. Without `pads_texts`,
    shorter texts are not padded. `without` are the only networks that may lack their weights; None if all may. Raises
    UserError for a folder that no pipeline of diffusers can be built from, and for what no recording describes."""
    refuse_onnx(folder)
    scheduler = read_scheduler(folder)
    with silence_libraries():
        built, other = build_pipeline(folder, without=without), build_pipeline(folder, seed=1)
        return _record(built, other, given, scheduler, partial(read_stored, folder), pads_texts)


def record_in_memory(
    pipeline: Any, label: str, given: Mapping[str, Any], pads_texts: bool = True
) -> tuple[RecordedPipeline, frozenset[str]]:
    """Record a pipeline in memory, as `record_folder` does. Also return which networks of unknown classes are no
    denoisers."""
    if getattr(pipeline, "scheduler", None) is None:
        raise recording_error(f"{label}: {type(pipeline).__name__} has no scheduler")
    if not hasattr(pipeline.scheduler, "config"):
        what = f"{label}: {type(pipeline.scheduler).__name__}, its scheduler, has no config"
        raise UserError(what, "let it derive from SchedulerMixin and ConfigMixin of diffusers")
    takes = inspect.signature(type(pipeline).__call__).parameters.values()
    if not any(argument.name == "generator" or argument.kind is argument.VAR_KEYWORD for argument in takes):
        what = f"the call of {type(pipeline).__name__} takes no generator"
        raise UserError(what, "let it take generator=None and draw noise from it")
    for name, component in find_components(pipeline, label).items():
        if isinstance(component, nn.Module):
            refuse_cache(component, f"{label}: its network {name}")
    config = {name: value for name, value in pipeline.scheduler.config.items() if not name.startswith("_")}
    scheduler = {**config, "_class_name": type(pipeline.scheduler).__name__, PIPELINE: type(pipeline).__name__}
    with silence_libraries():
        encoders = find_own_encoders(pipeline, label, given)
        built, other = (build_from_pipeline(pipeline, label, seed, encoders) for seed in range(2))
        return _record(built, other, given, scheduler, partial(read_from_memory, pipeline), pads_texts), encoders


def _record(
    built: BuiltPipeline,
    other: BuiltPipeline,
    given: Mapping[str, Any],
    scheduler: Mapping[str, Any],
    read: ReadNetwork,
    pads_texts: bool,
) -> RecordedPipeline:
    find = partial(find_layout, read)
    try:
        recorded = record_pipeline(built, other, given, scheduler, find, pads_texts)
    except LengthError:
        if not pads_texts:
            raise
        recorded = record_pipeline(built, other, given, scheduler, find, False)
    refuse_ignored_size(recorded.built, recorded.settings.of(), recorded.x_shape, given)
    return follow_sizes(recorded)


def load_diffusers_folder(
    path: Path, call: Mapping[str, Any] | None = None, without: Sequence[str] = ()
) -> TorchSource:
    """Load the denoiser of a pipeline's folder as the pipeline calls it, compared with the pipeline's own samples.

    call: arguments of the pipeline's call. without: components without weights; if one is an autoencoder, the source
        has none. Raises UserError as `record_folder`, and for weights that are missing or do not fit.
    """
    folder = Folder(path)
    warn_of_student(folder, read_scheduler(folder))
    return _with_free_lengths(partial(_load_folder, folder, call or {}, without))


def _with_free_lengths(load: Callable[[bool], TorchSource]) -> TorchSource:
    """Return the source that `load` returns with padded texts. If the network reads the padding, return that with texts
    of any length instead, without the warnings of the first attempt."""
    held: list[logging.LogRecord] = []

    def show_only_times(message: logging.LogRecord) -> bool:
        if message.levelno < logging.WARNING or message.msg == LONG:
            return True
        held.append(message)
        return False

    LOG.addFilter(show_only_times)
    try:
        source = load(True)
    except LengthError as error:
        held.clear()
        LOG.info("%s: its texts are not padded", error.what)
    else:
        return source
    finally:
        LOG.removeFilter(show_only_times)
        for message in held:
            LOG.handle(message)
    return load(False)


def _load_folder(folder: Folder, given: Mapping[str, Any], without: Sequence[str], pads_texts: bool) -> TorchSource:
    recorded = record_folder(folder, given, pads_texts, without)
    _refuse_unknown_padding(recorded)  # before gigabytes are read
    configs, files = list[Path](), list[Path]()

    def load(name: str) -> nn.Module:
        network, own = load_network(folder.home(name))
        configs.append(folder.home(name) / CONFIG)
        files.extend(own)
        return network

    networks = {name: recorded.load(name, load) for name in recorded.parts}
    companions, label, read = None, str(folder.path), partial(read_stored, folder)
    with silence_libraries():
        if not any(folder.class_of(name).startswith("Autoencoder") for name in without):
            companions = read_companions(label, recorded, read)
        companions = _add_text(companions, label, recorded, read, without)
    more = () if companions is None else companions.files
    digest = hash_files([find_scheduler_file(folder), *configs, *files, *more])
    origin = PipelineOrigin(folder.path.resolve().name, str(folder.path), digest)
    stored = StoredNetworks(
        lambda name: load_network(folder.home(name))[0], lambda name: outline_network(folder.home(name))
    )
    return _make_source(recorded, networks, origin, companions, stored)


def load_pipeline(pipeline: Any, label: str, sha256: str, given: Mapping[str, Any]) -> TorchSource:
    """Return the denoiser of a pipeline in memory as a source to export, after comparing its samples with the
    pipeline's own. `label` names the pipeline, and `sha256` is the digest of the code that made it."""
    return _with_free_lengths(partial(_load_in_memory, pipeline, label, sha256, given))


def _load_in_memory(pipeline: Any, label: str, sha256: str, given: Mapping[str, Any], pads_texts: bool) -> TorchSource:
    recorded, _ = record_in_memory(pipeline, label, given, pads_texts)
    _refuse_unknown_padding(recorded)
    with silence_libraries():
        read = partial(read_from_memory, pipeline)
        companions = read_companions(label, recorded, read)
        companions = _add_text(companions, label, recorded, read)

    def load(name: str) -> nn.Module:
        network: nn.Module = getattr(pipeline, name)
        return network

    networks = {name: recorded.load(name, load) for name in recorded.parts}
    return _make_source(
        recorded, networks, PipelineOrigin(label, label, sha256), companions, StoredNetworks(load, load)
    )


def _add_text(
    companions: PipelineNetworks | None,
    label: str,
    recorded: RecordedPipeline,
    read: ReadNetwork,
    without: Sequence[str] = (),
) -> PipelineNetworks | None:
    """Add the text encoders of a pipeline to its autoencoder, if its conditions follow from texts by rules. `without`
    are components without weights."""
    text_and_zeros = read_recorded_text(label, recorded, read, without)
    if text_and_zeros is None:
        return companions
    text, zeros = text_and_zeros
    return PipelineNetworks(text, None if companions is None else companions.autoencoder, zeros)


@dataclass(frozen=True)
class PipelineOrigin:
    """Where a pipeline comes from: the name of its bundle, its name in messages, and the digest of what was read."""

    name: str
    label: str
    sha256: str


@dataclass(frozen=True)
class StoredNetworks:
    """The networks of a pipeline by their components: with weights, and only with the shapes of their weights."""

    load: Callable[[str], nn.Module]
    outline: Callable[[str], nn.Module]


def _make_source(
    recorded: RecordedPipeline,
    networks: Mapping[str, nn.Module],
    origin: PipelineOrigin,
    companions: PipelineNetworks | None,
    stored: StoredNetworks,
) -> TorchSource:
    """Wrap denoisers with their weights, and compare samples with those of their pipeline. An expert is loaded from
    `stored` again when the main network is exported."""
    modules = recorded.wrap({name: to_float32(network).eval() for name, network in networks.items()})
    with silence_libraries():
        scheduler = find_scheduler(recorded, modules, origin.label)
    _compare(recorded, modules, scheduler, origin)
    weight = find_weight(modules, recorded.settings.forms.guided_by, _weights_of_more_steps(recorded))
    scheduler = replace(scheduler, config=with_guidance(scheduler.config, weight))
    *others, name = recorded.parts
    of_text = () if companions is None or companions.text is None else companions.text.pictures

    def wrap(component: str, network: nn.Module) -> TorchSource:
        part = recorded.parts[component]
        schedule, prediction = scheduler.described
        second = TO if part.relations.seconds else None
        of_network = ((*part.arguments.conditions, *of_text), prediction, schedule)
        free = part.arguments.sizes
        spec = Spec(origin.name, recorded.x_shape, *of_network, to=second, heads=recorded.heads, sizes=free)
        module = recorded.wrap_one(component, network, len(of_text))
        least, limit = batch_range(network, recorded.x_shape)
        source = TorchSource(module, spec, origin.name, origin.sha256, limit, scheduler.config, companions)
        return replace(source, batch_least=least, loops_over_samples=True)

    def load_expert(component: str) -> TorchSource:
        return replace(wrap(component, to_float32(recorded.load(component, stored.load)).eval()), companions=None)

    until = recorded.until or inf
    experts = tuple(
        Expert(component, until, partial(load_expert, component), partial(stored.outline, component))
        for component in others
    )
    sizes = RecordedSizes(recorded, modules, scheduler, origin.label)
    return replace(wrap(name, networks[name]), experts=experts, component=name, check_sizes=sizes.check)


def _compare(
    recorded: RecordedPipeline, modules: RecordedNetworks, scheduler: PipelineScheduler, origin: PipelineOrigin
) -> None:
    """Compare samples of the scheduler's plan with the pipeline's own, and log what export found and what it could not
    check. Raises UserError if they differ."""
    settings, pipeline = recorded.settings, recorded.built.name
    with silence_libraries():
        differences = compare_samples(recorded.built, modules, settings, recorded.batch, scheduler)
    if differences:
        plans = " and ".join(f"scheduler:{count}" for count in differences)
        what = "%s: samples of %s agree within %.1g of their range along %s"
        LOG.warning(what, origin.label, pipeline, max(differences.values()), plans)
    else:
        warn_of_missing_comparison(origin.label, pipeline, settings)
    if STRENGTH in settings.usual:
        LOG.warning("%s was recorded at strength 1: a smaller --strength is not compared", pipeline)
    if recorded.starts_from_picture:
        what = "its first x contains a part of the image, so that its samples need --image FILE --strength 1"
        LOG.warning("%s: %s", origin.label, what)
    more = _weights_of_more_steps(recorded)
    plan = partial(scheduler.plan, guidance=None, x_shape=recorded.x_shape)
    LOG.warning("%s: %s", origin.label, describe_guidance(modules, plan, settings.forms.guided_by, more))
    if recorded.holds:
        what = "its pipeline keeps a part of an image; give --image FILE --known MASK, or hold=Hold(image, mask)"
        if recorded.holds_clean:
            what = "its pipeline keeps a part of an image, without noise; give hold=Hold(image, mask, clean=True)"
        LOG.warning("%s: %s", origin.label, what)
    if without := settings.without:
        LOG.warning("%s: recorded without %s, which its call may take", origin.label, ", ".join(without))


def _refuse_unknown_padding(recorded: RecordedPipeline) -> None:
    """Raise LengthError if texts were padded, and nothing can show whether the network ignores the padding: it gets no
    mask, and is too large to run."""
    if not recorded.settings.texts or any(map(marks_padding, recorded.arguments.conditions)):
        return
    if not are_comparable(getattr(recorded.built.pipeline, name) for name in recorded.parts):
        what = f"the network of {recorded.built.name} gets no mask, and is too large to show whether it reads padding"
        raise LengthError(what)


def _weights_of_more_steps(recorded: RecordedPipeline) -> tuple[tuple[float, ...], ...]:
    return recorded.weights_of_more_steps if len(recorded.parts) == 1 else ()


def marks_padding(condition: Condition) -> bool:
    """Return True for a mask."""
    return (condition.low, condition.high) == (0, 1)


def warn_of_missing_comparison(label: str, pipeline: str, settings: CallSettings) -> None:
    """Warn of the checks that are skipped for a network that is too large to run."""
    what = "%s: the network gets the arguments that %s passes; it is too large to compare its samples too"
    LOG.warning(what, label, pipeline)
    if settings.texts:
        LOG.warning("%s: it is not checked either whether the network ignores the padding of shorter texts", label)
