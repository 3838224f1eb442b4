"""The verb `export`: export a denoiser to a verified bundle."""

import logging
from collections import deque
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from shlex import quote
from typing import TYPE_CHECKING, Any, Literal

import msgspec

from fewstep.export.changes import apply_changes, read_change
from fewstep.export.expert import Expert
from fewstep.export.experts import join_conditions, load_expert, parse_experts
from fewstep.export.export_network import ExportedNetwork, NetworkOptions, export_network
from fewstep.export.licence import read_licence
from fewstep.export.light_network import add_light_network, refuse_cache
from fewstep.export.lora.slots import SlotRequest
from fewstep.export.options.null_option import add_null_files, read_null_values, strip_folder, with_nulls
from fewstep.export.options.size_option import with_sizes
from fewstep.export.sources import hub
from fewstep.export.spec import Source, Spec
from fewstep.export.verification.points import Scope
from fewstep.graph.files.commit import open_for_update
from fewstep.graph.graph import TIME, X
from fewstep.plans.configs.classes import is_distilled_sampler
from fewstep.plans.default_grid import TRAINED, default_grid
from fewstep.plans.errors import UserError
from fewstep.plans.names.plan_reference import FittedReference
from fewstep.plans.plan import LIGHT
from fewstep.runtime.bundle import manifest
from fewstep.runtime.bundle.manifest import SCHEMA, Body, Description, Manifest, Provenance
from fewstep.runtime.bundle.platforms import PORTABLE, body_name
from fewstep.runtime.lora.file import Lora, read_lora
from fewstep.runtime.machine.packages import version_of
from fewstep.runtime.options import Options
from fewstep.runtime.progress import SILENT, Progress, prefix_stages

if TYPE_CHECKING:
    from fewstep.export.load_and_trace import Evaluate, Origin
    from fewstep.export.sources.folder_kinds import FolderKind

DType = Literal["float32", "float16"]

LOG = logging.getLogger("fewstep")
PACKAGES = ("fewstep", "torch", "onnx", "onnxscript", "onnxruntime", "numpy")


@dataclass(frozen=True)
class ExportOptions(Options):
    """Export a denoiser to a bundle, verified against its source.

    source: A shipped model's name (fashion_mnist or cifar10); FILE.py:FUNCTION, a
        function that returns (module, spec) or a diffusers pipeline; an .onnx file with --spec; a folder of diffusers
        or LeRobot; or ORG/NAME, such a folder on a hub of models, at a commit with ORG/NAME@REVISION.
    output: The bundle's folder; an older bundle there is replaced.
    spec: A JSON file. For an .onnx file it has names, schedule, prediction and conditions; for the folder of one
        diffusers component, its schedule and prediction.
    statistics: For a LeRobot folder that stores statistics of several data sets: the data set whose statistics
        normalise actions and observations, such as so100.
    dtype: Type of the body's weights and arithmetic: float32, from which every other form can be derived, or float16,
        half the size and for GPUs only.
    size: NAME=LOW:HIGH:MULTIPLE makes an axis of x dynamic, like height=32:128:8 and width=32:128:8. NAME@AXIS=...
        gives the axis another name. Default: x has one shape.
    lora: FILE.safetensors, or FILE.safetensors:STRENGTH, merged into the weights. Several files are merged in the order
        given.
    lora_slots: Layers that load LoRA files at run time: names, parts of names, or patterns like attn*.to_q; '*' for
        all.
    rank: The maximum sum of the ranks of a layer's LoRA files, with --lora-slots.
    change: NAME:ARGUMENTS, a change of the network before it is traced, like freeu:1.5,1.6,0.9,0.2 or pag:middle; or
        FILE.py:FUNCTION, which takes (module, spec) and returns both. Several changes are applied in the order given.
    verify: full compares with the source at all times, batches and sizes. quick takes a sixth of the evaluations, for
        large networks. If a bundle at the output has the same graphs, verified by the same fewstep, nothing is run
        again.
    call: NAME=VALUE, like height=512 or num_frames=49: an argument of the call of a diffusers pipeline that export
        records, which defines the size of its samples. Default: the pipeline's own values.
    null: NAME=VALUE, like class=10: the null value of a condition, if the source does not define it. NAME=@FILE for an
        array in a .npy file, or in an .npz file under that name. Guidance needs one for each condition.
    expert: NAME=SOURCE@LAMBDA: the network SOURCE replaces the denoiser in the noisy steps, with lambda = log(alpha /
        sigma) below LAMBDA. NAME=SOURCE@-inf runs one step at pure noise before all others. Changes such as --lora
        apply to the denoiser only.
    check: Samples of the training data (.npz or .safetensors): x [N, *x_shape], and each condition by name. A spec that
        contradicts them is refused before the module is traced, and the error names the likely mistake, as verify
        --data does.
    cache: The name of a cut for feature caching, such as depth1 or F1B0. The bundle gets a light network, which some
        steps of plans like dpmpp_2m:20+every(interval=3) run. An unknown name lists the cuts.
    """

    source: str
    output: Path = field(metadata={"short": "-o", "unrecorded": True})
    spec: Path | None = None
    statistics: str | None = None
    dtype: DType = "float32"
    size: tuple[str, ...] = ()
    lora: tuple[str, ...] = ()
    lora_slots: tuple[str, ...] = ()
    rank: int = 64
    change: tuple[str, ...] = field(default=(), metadata={"whole": True})
    verify: Scope = "full"
    call: tuple[str, ...] = field(default=(), metadata={"whole": True})
    null: tuple[str, ...] = ()
    expert: tuple[str, ...] = ()
    check: Path | None = field(default=None, metadata={"unrecorded": True})
    cache: str | None = None


def export(options: ExportOptions, progress: Progress = SILENT) -> Manifest:
    """Trace, rewrite and verify a denoiser, then write the bundle. If that fails, an older bundle stays as it was.

    Weights are held in memory only once. Those of a large network are written to the bundle's folder as soon as they
    are traced, and mapped from there. If the export fails, these files are removed.
    """
    from fewstep.export.sources.shipped_plans import (
        add_shipped_plans,
    )  # imports onnxruntime, which --help does not need

    _check_named_files(options)
    with open_for_update(options.output, must_exist=False) as writer:
        loras, others = _read_loras(options), parse_experts(options.expert, load_source)
        if others:  # refuse a wrong expert before minutes of work
            deque(_load_sources(options, loras, others), maxlen=0)
        check_spec = None if options.check is None else partial(_check_spec, options.check, options.null, bool(others))
        how = NetworkOptions(options.dtype, options.verify, _package_versions(), options.cache)
        denoiser = export_network(writer, how, partial(_load_changed_source, options, loras), progress, check_spec)
        origin = denoiser.origin
        scheduler = None
        if origin.scheduler is not None:
            content = msgspec.json.format(msgspec.json.encode(origin.scheduler))
            scheduler = writer.add(content, folder="plans", name="scheduler", suffix=".json")
        entry = msgspec.structs.replace(_make_manifest(options, denoiser, loras), scheduler=scheduler)
        for expert in (*others, *origin.experts):
            load = partial(load_expert, expert, origin.spec, options.size, options.null)
            own = export_network(writer, how, load, prefix_stages(progress, expert.name))
            entry = _add_expert(entry, expert, own, options.dtype)
        if denoiser.features is not None:
            entry = add_light_network(entry, denoiser.graphs[LIGHT], denoiser.features)
        entry = add_shipped_plans(writer, entry)
        if writer.manifest is not None and (gone := describe_additions(writer.manifest, entry)):
            LOG.warning(
                "%s replaces an older bundle: files derived from that one are removed (%s)", options.output, gone
            )
        if origin.companions is not None:
            entry = origin.companions.add(writer, entry, progress)
        return writer.commit(add_null_files(writer, entry, options.null))


def _check_spec(file: Path, null: Sequence[str], has_experts: bool, spec: Spec, evaluate: "Evaluate") -> None:
    """Raise UserError if the samples of a file contradict the spec."""
    from fewstep.measure.spec_samples import read_samples  # imports onnxruntime, which --help does not need

    def network(x: Any, times: Any, conditions: Mapping[str, Any]) -> Any:
        named = {each.input: conditions[each.name] for each in spec.conditions}
        if spec.positions is not None:
            times = times[:, None].repeat(spec.positions.places(spec), axis=1)
        return evaluate({X: x, TIME: times.astype("float32"), **named})

    found = read_samples(file, spec, spec.to is None and not has_experts).check(
        network, spec, read_null_values(spec, null)
    )
    if found.mistake:
        raise UserError(str(found), "correct the Spec, train longer, or leave --check out")
    LOG.warning("%s", found)


def _check_named_files(options: ExportOptions) -> None:
    """Raise UserError if the file of samples (--check) or a change (--change) does not exist."""
    if options.check is not None:
        from fewstep.measure.rollouts.conditions_file import check_file  # --help does not need it

        check_file(options.check)
    for text in options.change:
        read_change(text)


def check_sources(options: ExportOptions) -> Iterator[Source]:
    """Check that the output can be written; return the source of each network."""
    _check_named_files(options)
    loras, others = _read_loras(options), parse_experts(options.expert, load_source)
    with open_for_update(options.output, must_exist=False):
        pass
    return _load_sources(options, loras, others)


def _load_sources(options: ExportOptions, loras: Sequence[Lora], others: Sequence[Expert]) -> Iterator[Source]:
    """Yield the source of each network, the denoiser first, after checking its spec. Only one is in memory at a
    time."""
    source = _load_changed_source(options, loras)
    spec = source.spec
    yield source
    del source
    for expert in others:
        yield load_expert(expert, spec, options.size, options.null)


def _add_expert(entry: Manifest, expert: Expert, own: ExportedNetwork, dtype: DType) -> Manifest:
    """Return the manifest with an expert added after the noisier ones."""
    conditions, inputs = join_conditions(entry.conditions, expert, own.origin.spec.conditions)
    network = manifest.NetworkEntry(
        until=expert.until,
        prediction=own.origin.spec.prediction,
        inputs=dict(inputs),
        bodies={body_name(dtype): Body.from_graph(own.graphs["body"], dtype, PORTABLE)},
        source=own.origin.label,
        source_sha256=own.origin.sha256,
        heads=own.origin.spec.heads,
        steers=own.origin.spec.steers,
        prologue=own.graphs.get("prologue"),
        conditioner=own.graphs.get("conditioner"),
        verification=own.table,
    )
    return msgspec.structs.replace(entry, conditions=conditions, networks={**entry.networks, expert.name: network})


def _read_loras(options: ExportOptions) -> tuple[Lora, ...]:
    return tuple(read_lora(text) for text in options.lora)


def _load_changed_source(options: ExportOptions, loras: Sequence[Lora]) -> Source:
    """Load the source and apply the options' changes."""
    changes, slots = map(read_change, options.change), SlotRequest(options.lora_slots, options.rank)
    source = apply_changes(
        load_source(options.source, options.spec, options.statistics, options.call), loras, tuple(changes), slots
    )
    if options.cache is not None:
        refuse_cache(source.spec, options.expert, options.lora_slots)
    return with_nulls(with_sizes(source, options.size), options.null)


def describe_additions(former: Manifest, new: Manifest | None = None) -> str:
    """Describe what other verbs have added to the `former` bundle and the `new` one lacks; "" if it is nothing but a
    report."""
    bodies = [name for name in former.bodies if name != "float32"]
    engines = [engine.file for engine in former.engines]
    kept = () if new is None else new.fitted
    fitted = [f"{FittedReference(each.evaluations)} for {each.body}" for each in former.fitted if each not in kept]
    added = list(dict.fromkeys([*bodies, *engines, *fitted]))
    return ", ".join([*added, *["the report"] * (former.report is not None)]) if added else ""


def load_source(text: str, spec: Path | None = None, statistics: str | None = None, call: Sequence[str] = ()) -> Source:
    """Load the source that a text names, by its form: FILE.py:FUNCTION, FILE.onnx, a folder of diffusers or of a
    plugin, a model on a hub, or a shipped model. A shipped model's name takes precedence: a folder of that name is
    ./NAME. `statistics` names one of the data sets whose statistics a folder stores. `call` are arguments NAME=VALUE of
    a diffusers pipeline's call."""
    from fewstep.export.options.call_option import read_call
    from fewstep.export.sources import checkpoint, onnx_file, python_file, shipped
    from fewstep.export.sources.diffusers import component
    from fewstep.export.sources.diffusers import folder as diffusers_folder
    from fewstep.export.sources.diffusers.files import CONFIG, INDEX, is_component
    from fewstep.export.sources.folder_kinds import find_folder_kind

    if hub.is_name(text):
        there = hub.fetch(text)
        return there.rename_source(load_source(str(there.folder), spec, statistics, call))
    is_shipped = text in shipped.NAMES
    is_folder = (
        Path(text).is_dir() and not is_shipped
    )  # checked first: a folder's name may contain a colon, as on Windows
    if is_shipped and any((Path(text) / name).is_file() for name in (INDEX, CONFIG)):
        LOG.warning("%s is the shipped model; for the folder of that name give ./%s", text, text)
    arguments = read_call(text, call, spec)
    if statistics is not None:
        is_other = not is_folder or spec is not None or is_component(Path(text))
        return _load_with_statistics(text, None if is_other else find_folder_kind(Path(text)), statistics)
    if text.endswith(".onnx") and not is_folder:
        return onnx_file.load_onnx_file(Path(text), spec)
    if is_folder and is_component(Path(text)):
        return component.load_component(Path(text), spec)
    if spec is not None:
        fix = "leave --spec out: it is for .onnx files and folders of one diffusers component"
        raise UserError(f"source {text!r} brings its own spec", fix)
    if is_folder:
        kind = find_folder_kind(Path(text))
        return diffusers_folder.load_diffusers_folder(Path(text), arguments) if kind is None else kind.load(Path(text))
    if ":" in text or text.endswith(".py"):
        return python_file.load_python_file(text, arguments)
    if checkpoint.is_checkpoint(text):
        checkpoint.refuse_checkpoint(text)
    if Path(text).is_file():
        raise UserError(f"{text} is not a file with a denoiser", shipped.GIVE_SOURCE)
    return shipped.load_shipped(text)


def _load_with_statistics(text: str, kind: "FolderKind | None", statistics: str) -> Source:
    """Load the source of a folder with the statistics of one data set. Raises UserError if its type stores none by data
    set."""
    if kind is None or kind.load_with_statistics is None:
        fix = "leave --statistics out: it is for folders of LeRobot"
        raise UserError(f"source {text!r} stores no statistics by data set", fix)
    return kind.load_with_statistics(Path(text), statistics)


def _make_manifest(options: ExportOptions, denoiser: ExportedNetwork, loras: Sequence[Lora]) -> Manifest:
    origin, graphs, spec = denoiser.origin, denoiser.graphs, denoiser.origin.spec
    described = {field: getattr(spec, field) for field in Description.__struct_fields__}
    is_distilled = spec.distilled or is_distilled_sampler(origin.scheduler or {})
    usual = (
        TRAINED if spec.positions else default_grid(spec.schedule, spec.prediction)
    )  # every position goes through the same grid
    return Manifest(
        **described | {"grid": spec.grid or usual, "distilled": is_distilled},
        schema=SCHEMA,
        conditioner=graphs.get("conditioner"),
        prologue=graphs.get("prologue"),
        bodies={body_name(options.dtype): Body.from_graph(graphs["body"], options.dtype, PORTABLE)},
        provenance=Provenance(
            source=origin.label,
            source_sha256=origin.sha256,
            versions=_package_versions(),
            commands=(_command(options, origin, loras),),
            adapters=tuple(lora.adapter for lora in loras),
            licence=read_licence(options.source),
        ),
        files={},
        verification=denoiser.table,
        lora_slots=origin.lora_slots,
    )


def _command(options: ExportOptions, origin: "Origin", loras: Sequence[Lora]) -> str:
    """Return the command that repeats this export, without paths."""
    recorded = replace(
        options,
        lora=tuple(f"{lora.name}:{lora.strength:g}" for lora in loras),
        lora_slots=tuple(map(quote, options.lora_slots)),
        change=tuple(quote(read_change(text).text) for text in options.change),
        null=tuple(map(strip_folder, options.null)),
        expert=tuple(map(_strip_source_folder, options.expert)),
    )
    return recorded.command_line("export", of=f"{origin.label} -o BUNDLE")


def _strip_source_folder(text: str) -> str:
    """Return an expert's option without the folder of its source."""
    name, _, source = text.partition("=")
    return text if hub.is_name(source.rpartition("@")[0]) else f"{name}={Path(source).name}"


def _package_versions() -> dict[str, str]:
    """Return the versions of the packages that create and verify graphs."""
    return {package: version for package in PACKAGES if (version := version_of(package))}
