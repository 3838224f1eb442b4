"""`fewstep build`: build engines of a bundle for GPUs, ahead of time or on the device.

TensorRT-RTX compiles for a GPU that is not present, TensorRT for the GPU of this machine. `build` runs no engine. It
checks that the engine was built, and in which types its convolutions multiply.

Each device gets a separate engine. So a device receives only its own code, a further device rebuilds nothing, and an
operation that one generation lacks costs the others nothing. The graphs that run before the first step get float32
engines too, so that a device needs only one runtime. Turing gets none: TensorRT-RTX does not support float32 matrix
products there.
"""

import logging
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Literal

import msgspec

from fewstep.graph.engines.batches import BATCH, parse_batch, parse_sizes, profile_of
from fewstep.graph.engines.build_engine import BuildOrder, build_engine
from fewstep.graph.engines.build_script import HEAD, script
from fewstep.graph.engines.builders import STRICT, EngineBuilder, Flags, builder_of
from fewstep.graph.engines.cuda_forms import form_keys, write_form
from fewstep.graph.files import io
from fewstep.graph.files.commit import Writer, open_for_update
from fewstep.graph.files.stored_graphs import load_stored
from fewstep.graph.half_types import BFLOAT16, HALVES
from fewstep.graph.passes.constants import drop_unused
from fewstep.graph.passes.float32 import has_type
from fewstep.graph.passes.half import to_half
from fewstep.plans.errors import UserError
from fewstep.plans.plan import DENOISER
from fewstep.runtime.backends import RUN_ONCE, graph_names
from fewstep.runtime.backends.onnxruntime_cuda_form import BACKEND as FORM_BACKEND
from fewstep.runtime.bundle.engine_key import AMPERE, AMPERE_ON, EngineKey, capability
from fewstep.runtime.bundle.manifest import Body, EngineEntry, Manifest, Precision
from fewstep.runtime.bundle.manifest import GraphEntry as GraphFile
from fewstep.runtime.bundle.networks import label_with_network, networks, replace_network, select_network
from fewstep.runtime.bundle.platforms import PORTABLE, target_of
from fewstep.runtime.bundle.reading import Bundle
from fewstep.runtime.kinds.sizes import parse_dimension
from fewstep.runtime.options import BundleOptions
from fewstep.runtime.progress import SILENT, Progress

LOG = logging.getLogger("fewstep")


@dataclass(frozen=True)
class BuildOptions(BundleOptions):
    """Build engines of a bundle's body for GPUs, and add them to the bundle. Engines for this machine's GPU are
    compared with onnxruntime.

    bundle: The bundle to build for.
    backend: tensorrt-rtx builds ahead of time and needs no GPU. tensorrt (JetPack, data centers) builds for the GPU on
        which it runs. qnn builds ahead of time for Qualcomm's Hexagon. onnxruntime-cuda compiles when it loads; its
        `build` writes its float16 body, and a form of the body with the provider's fastest operations.
    device: Compute capabilities to build for. tensorrt-rtx: sm75, sm80, sm86, sm89, sm120, sm121, by default sm86, sm89
        and sm120. tensorrt: the GPU of this machine. qnn: sm8550, sm8650, sm8750, sm8850, or by default sc8380xp.
    precision: int8 builds the body that calibrate made for tensorrt; float16, bfloat16 and float32 build the float
        body. bfloat16 is for weights trained in bfloat16, and for activations beyond float16. It needs Ampere or later.
    min_batch: The smallest batch of one evaluation (a guided sample is a batch of two), or shapes of inputs, like
        x:1x1x28x28 or x:[1,1,28,28]. Shapes also set the free sizes of a bundle; a number leaves their ranges as they
        are.
    opt_batch: The preferred batch, or shapes, at which the engine is fastest; a qnn engine has only this one. Default:
        4, or the nearest batch between the other two.
    max_batch: The largest batch, or shapes.
    workspace: MiB of scratch memory that the builder may plan with. Default: all memory.
    version_compatible: Build tensorrt engines that later versions can run too.
    hardware_compatible: Build tensorrt engines for Ampere and all later GPUs. Not on a Jetson.
    dla: Number of the DLA core to use, on a Jetson that has one; layers that it cannot run go to the GPU.
    float32_scales: Write int8 scales in float32, for a builder that refuses float16 scales.
    verify: Compare the engines for this machine's GPU with onnxruntime, as verify --engines does. Turn it off if memory
        cannot hold the network twice.
    timeout: Seconds that building one engine may take.
    script: A file to write instead of building, with --backend tensorrt: the commands of trtexec and Polygraphy that
        build the same engines and compare them with onnxruntime.
    """

    backend: str = "tensorrt-rtx"
    device: tuple[str, ...] = ()
    precision: Literal["int8", "float16", "bfloat16", "float32"] = "int8"
    min_batch: str = "1"
    opt_batch: str | None = None
    max_batch: str = "16"
    workspace: int | None = None
    version_compatible: bool = False
    hardware_compatible: bool = False
    dla: int | None = None
    float32_scales: bool = False
    verify: bool = field(default=True, metadata={"unrecorded": True})
    timeout: float = field(default=3600.0, metadata={"unrecorded": True})
    script: Path | None = None


@dataclass(frozen=True)
class Build:
    """The bundle's new manifest, the engines that were built, and the existing engines that are up to date."""

    manifest: Manifest
    built: tuple[EngineEntry, ...]
    kept: tuple[EngineEntry, ...]


@dataclass(frozen=True)
class EngineRequest:
    """An engine that `build` builds unless it is up to date."""

    body: str
    device: str
    is_up_to_date: bool
    network: str = DENOISER


@dataclass(frozen=True)
class NetworkBody:
    """A network, a bundle restricted to it, and the body to build. A 16-bit body may not exist yet."""

    network: str
    bundle: Bundle
    name: str
    body: Body | None


def build(options: BuildOptions, progress: Progress = SILENT) -> Build:
    """Build the missing engines, and commit them all at once. Raises UserError if one cannot be built."""
    builder = check_options(options)
    with open_for_update(options.bundle, must_exist=True, verb="build") as writer:
        manifest, built, kept = options.open().manifest, list[EngineEntry](), list[EngineEntry]()
        parts = [_make_body(part, writer) for part in _bodies(options, builder)]
        orders = [_orders(options, builder, part, writer.known_files) for part in parts]
        changed, total = manifest, sum(map(len, orders))
        for part, wanted in zip(parts, orders, strict=True):
            new = []
            for order in wanted:
                what = f"{label_with_network(part.network, order.body)} for {order.key.device}"
                if (engine := _find_current(part.bundle, order.key)) is None:
                    new.append(build_engine(writer, builder, order, options.bundle, options.timeout))
                else:
                    LOG.info("the engine of %s is up to date", what)
                    kept.append(engine)
                done = len(built) + len(new) + len(kept)
                progress(f"engine of {what}{'' if engine is None else ' (up to date)'}", done, total)
            if builder.writes_forms:
                new, current = _write_forms(writer, part, options.bundle)
                changed, kept = _drop_forms(changed, part, current), [*kept, *current]
            changed, built = _add_engines(changed, part, new), [*built, *new]
        if changed != manifest:
            provenance = manifest.provenance
            devices = tuple(dict.fromkeys(each.device for each in built if builder.module))
            commands = (*provenance.commands, _command(options, devices))
            provenance = msgspec.structs.replace(provenance, commands=commands)
            manifest = writer.commit(msgspec.structs.replace(changed, provenance=provenance))
    return Build(manifest, tuple(built), tuple(kept))


def list_requests(options: BuildOptions) -> tuple[EngineRequest, ...]:
    """Return the engines that `build` would build, without building them."""
    builder, requests = check_options(options), list[EngineRequest]()
    for part in _bodies(options, builder):
        if part.body is None:  # `build` would create it first, so it has no engine yet
            devices = _devices(options, builder, part) if builder.module else {}
            requests += [EngineRequest(part.name, device, False, part.network) for device in devices]
        for each in () if part.body is None else _orders(options, builder, part, part.bundle.manifest.files):
            is_there = _find_current(part.bundle, each.key) is not None
            requests.append(EngineRequest(each.body, each.key.device, is_there, part.network))
    return tuple(requests)


def build_script(options: BuildOptions) -> str:
    """Return the script of `BuildOptions.script`. Needs neither TensorRT nor a GPU."""
    builder = check_options(options)
    if builder.name != "tensorrt":
        raise UserError(f"there are no commands for {builder.name}", "--script is for --backend tensorrt")
    text = HEAD
    for part in _bodies(options, builder):
        manifest, body = part.bundle.manifest, part.body
        if body is None:
            fix = f"create it with fewstep build {options.bundle} --precision {options.precision}"
            raise UserError(f"{options.bundle} has no body {options.precision!r}", fix)
        graphs = {**_setup_graphs(manifest), **graph_names(part.name, body)}
        profile = _profile(options, body.graph, manifest)
        text += script(graphs, body, manifest.conditions, profile, _flags(options), part.network)
    return text


def _bodies(options: BuildOptions, builder: EngineBuilder) -> Iterator[NetworkBody]:
    """Yield the body to build of each network, with its files checked. Raises UserError if it is missing, except a
    16-bit body, which `build` creates."""
    whole = options.open()
    whole.check_continuous("build")
    names = builder.bodies[options.precision]
    for network in networks(whole.manifest):
        bundle = whole.select_network(network)
        name = next((each for each in names if each in bundle.manifest.bodies), names[0])
        body = bundle.manifest.bodies.get(name)
        if body is None and name not in HALVES:
            fix = f"fewstep calibrate {options.bundle} --target {target_of(name)}"
            fix += ", or build --precision float16" if "float16" in builder.bodies else ""
            raise UserError(f"{options.bundle} has no body {name!r} to build", fix)
        for graph in () if body is None else body.graphs:
            bundle.graph(graph)
        yield NetworkBody(network, bundle, name, body)


def _make_body(part: NetworkBody, writer: Writer) -> NetworkBody:
    """Return the network with its body. A 16-bit body that does not exist yet is converted from the float32 body."""
    if part.body is not None:
        return part
    base = part.bundle.body("float32").graph
    graph = drop_unused(to_half(load_stored(part.bundle, base), HALVES[part.name]))
    file, data = io.store(writer, graph, part.name, external_above=0 if base.data else None)
    precision: Precision = "float16" if part.name == "float16" else "bfloat16"
    return replace(part, body=Body.from_graph(GraphFile(file, base.inputs, base.outputs, data), precision, PORTABLE))


def _write_forms(writer: Writer, part: NetworkBody, bundle: Path) -> tuple[list[EngineEntry], list[EngineEntry]]:
    """Write the forms of a body's graphs that are missing. Return the new forms, and those that are up to date."""
    new, kept = list[EngineEntry](), list[EngineEntry]()
    for name, graph in graph_names(part.name, part.body).items() if part.body is not None else ():
        keys = form_keys(graph, writer.known_files)
        current = [each for key in keys if (each := _find_current(part.bundle, key)) is not None]
        made = None if current else write_form(writer, name, graph, keys, bundle)
        kept += current
        new += [] if made is None else [made]
    return new, kept


def _drop_forms(manifest: Manifest, part: NetworkBody, kept: list[EngineEntry]) -> Manifest:
    """Return the manifest without the forms of a network's body that are not kept."""
    own = select_network(manifest, part.network)
    others = tuple(
        engine
        for engine in own.engines
        if engine.backend != FORM_BACKEND or engine.body.partition("/")[0] != part.name or engine in kept
    )
    return replace_network(manifest, part.network, msgspec.structs.replace(own, engines=others))


def _setup_graphs(manifest: Manifest) -> dict[str, GraphFile]:
    """Return the graphs that run before the first step, by name."""
    return {each: graph for each in RUN_ONCE if (graph := getattr(manifest, each)) is not None}


def check_options(options: BuildOptions) -> EngineBuilder:
    """Return the builder that the options name. Raises UserError for options that are wrong for any bundle."""
    builder = builder_of(options.backend)
    for device in options.device:
        if builder.devices and device not in builder.devices:
            raise UserError(f"unknown device {device!r}", f"choose from {', '.join(builder.devices)}")
    if options.precision not in builder.bodies:
        raise UserError(
            f"{builder.name} has no engines of precision {options.precision!r}",
            f"choose --precision {', '.join(builder.bodies)}",
        )
    for flag in _flags(options).keys() - STRICT.keys() - {"workspace"} - builder.options:
        raise UserError(f"{builder.name} has no --{flag.replace('_', '-')}", "omit it, or use --backend tensorrt")
    for option, least in (("workspace", 1), ("dla", 0)):
        value = getattr(options, option)
        if value is not None and value < least:
            raise UserError(f"--{option} is {value}", f"give at least {least}")
    if options.dla is not None and options.precision in ("int8", "bfloat16"):
        what = "quantized (QDQ) int8 graphs" if options.precision == "int8" else "bfloat16"
        raise UserError(f"a DLA does not support {what}", "build --precision float16, or omit --dla")
    if options.float32_scales and options.precision != "int8":
        raise UserError(f"{options.precision} has no scales", "build --precision int8, or omit --float32-scales")
    if options.float32_scales and options.script is not None:
        raise UserError("a script builds the bundle's graphs unchanged", "omit --script or --float32-scales")
    return builder


def _flags(options: BuildOptions) -> Flags:
    """Return the settings that differ from the builder's defaults."""
    names = ("workspace", "dla", "version_compatible", "hardware_compatible", "float32_scales")
    choices = {name: value for name in names if (value := getattr(options, name)) is not None and value is not False}
    return {**STRICT, **choices}


def _devices(options: BuildOptions, builder: EngineBuilder, part: NetworkBody) -> dict[str, int | None]:
    """Return the devices to build a body for, with their number of multiprocessors. Raises UserError for a device
    without the body's float type."""
    devices = builder.targets(options.device, _flags(options))
    old = [device for device in devices if device != AMPERE_ON and capability(device) < AMPERE]
    if old and (part.name == BFLOAT16.name if part.name in HALVES else _has_bfloat16(part)):
        what = f"{old[0]} has no bfloat16" + (", which this int8 body uses" if options.precision == "int8" else "")
        raise UserError(what, "build for Ampere (sm80) or later, or another --precision")
    return devices


def _has_bfloat16(part: NetworkBody) -> bool:
    graphs = () if part.body is None else part.body.graphs
    return any(has_type(load_stored(part.bundle, each), BFLOAT16) for each in graphs)


def _orders(
    options: BuildOptions, builder: EngineBuilder, part: NetworkBody, hashes: Mapping[str, str]
) -> tuple[BuildOrder, ...]:
    """Return all engines to build: for each device, those of the prologue and of the body's graphs."""
    if builder.writes_forms and part.body is not None and options.opt_batch is not None:
        parse_batch(options.opt_batch, part.body.graph, part.bundle.manifest.sizes, part.bundle.manifest.x_shape)
    if builder.module is None or part.body is None:
        return ()
    flags = _flags(options)
    sizes = _profile(options, part.body.graph, part.bundle.manifest)
    if builder.has_one_size:
        sizes = {name: (preferred,) * 3 for name, (_, preferred, _) in sizes.items()}
    batches = sizes.pop(BATCH)
    common = EngineKey("", (), batches, flags, builder.name, builder.version(), device="", sizes=sizes)
    orders = []
    for device, multiprocessors in _devices(options, builder, part).items():
        key = msgspec.structs.replace(common, device=device, multiprocessors=multiprocessors)
        for each, graph in _setup_graphs(part.bundle.manifest).items() if device not in builder.no_float32 else ():
            part.bundle.graph(graph)
            any_rows = (1, *key.batches[1:])  # a call may have any number of rows
            on_gpu = {flag: value for flag, value in flags.items() if flag != "dla"}  # DLAs do not compute float32
            own = msgspec.structs.replace(key, batches=any_rows, flags=on_gpu)
            orders.append(_order(each, graph, own, hashes))
        for each, graph in graph_names(part.name, part.body).items():
            orders.append(_order(each, graph, key, hashes, is_reduced=part.body.precision != "float32"))
    return tuple(orders)


def _order(
    name: str, graph: GraphFile, key: EngineKey, hashes: Mapping[str, str], is_reduced: bool = False
) -> BuildOrder:
    weights = tuple(hashes[file] for file in graph.data)
    taken = {
        name
        for tensor in graph.inputs
        for size in tensor.shape
        if isinstance(size, str)
        for name in parse_dimension(size)[1]
    }
    sizes = {name: ends for name, ends in key.sizes.items() if name in taken}
    own = msgspec.structs.replace(key, graph=hashes[graph.file], weights=weights, sizes=sizes)
    return BuildOrder(name, graph, is_reduced, own)


def _profile(options: BuildOptions, graph: GraphFile, manifest: Manifest) -> dict[str, tuple[int, int, int]]:
    """Return the (least, preferred, greatest) batch and free sizes."""
    least, greatest = (
        parse_sizes(text, graph, option)
        for text, option in ((options.min_batch, "--min-batch"), (options.max_batch, "--max-batch"))
    )
    preferred = None if options.opt_batch is None else parse_sizes(options.opt_batch, graph, "--opt-batch")
    profile = profile_of(least, preferred, greatest, manifest.sizes, manifest.x_shape)
    if options.dla is not None and (free := [name for name, ends in profile.items() if len(set(ends)) > 1]):
        raise UserError(
            f"a DLA supports one fixed size, but {free[0]} has a range: everything would run on the GPU",
            "give --min-batch and --max-batch the same number, or omit --dla",
        )
    return profile


def _find_current(bundle: Bundle, key: EngineKey) -> EngineEntry | None:
    """Return the bundle's undamaged engine with this key, or None."""
    for engine in bundle.manifest.engines:
        if engine.key == key.digest:
            try:
                bundle.file(engine.file), bundle.file(engine.sidecar)
            except UserError as error:
                LOG.warning("building again: %s", error.what)
                return None
            return engine
    return None


def _add_engines(manifest: Manifest, part: NetworkBody, engines: list[EngineEntry]) -> Manifest:
    """Return the manifest with the body of a network and new engines. They replace engines of the same body and
    device."""
    own = select_network(manifest, part.network)
    new = {(engine.body, engine.backend, engine.device) for engine in engines}
    others = (engine for engine in own.engines if (engine.body, engine.backend, engine.device) not in new)
    bodies = own.bodies if part.body is None else {**own.bodies, part.name: part.body}
    own = msgspec.structs.replace(own, bodies=bodies, engines=(*others, *engines))
    return replace_network(manifest, part.network, own)


def _command(options: BuildOptions, devices: tuple[str, ...]) -> str:
    """Return the command that repeats this build, without paths."""
    always = ("backend", "precision", *(("device", "min_batch", "max_batch") if devices else ()))
    return replace(options, device=devices).command_line("build", always)
