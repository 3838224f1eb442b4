"""`fewstep build`: build engines of a bundle for GPUs, ahead of time or on the device.

TensorRT-RTX compiles for a GPU that is not present, TensorRT for the GPU of this machine. `build` runs no engine. It
checks that the engine was built, and in which types its convolutions multiply.

Each device gets a separate engine. So a device receives only its own code, and adding a device rebuilds nothing. An
operation that one GPU generation lacks does not affect the engines of the others. The graphs that run before the first
step get float32 engines too, so that a device needs only one runtime. Turing gets none: TensorRT-RTX does not support
float32 matrix products there.
"""

import logging
from dataclasses import dataclass, replace
from pathlib import Path

import msgspec

from fewstep.graph.engines.build_engine import build_engine
from fewstep.graph.engines.build_options import BuildOptions, builder_flags, check_options
from fewstep.graph.engines.build_orders import devices_of, list_orders, setup_graphs, size_profile
from fewstep.graph.engines.build_script import HEAD, script
from fewstep.graph.engines.cuda_forms import form_keys, write_form
from fewstep.graph.engines.network_body import NetworkBody, make_body, network_bodies
from fewstep.graph.files.commit import Writer, open_for_update
from fewstep.plans.errors import UserError, quote_path
from fewstep.plans.plan import DENOISER
from fewstep.runtime.backends import graph_names
from fewstep.runtime.backends.onnxruntime_cuda_form import BACKEND as FORM_BACKEND
from fewstep.runtime.bundle.engine_key import EngineKey
from fewstep.runtime.bundle.manifest import EngineEntry, Manifest
from fewstep.runtime.bundle.networks import label_with_network, replace_network, select_network
from fewstep.runtime.bundle.reading import Bundle
from fewstep.runtime.progress import SILENT, Progress

LOG = logging.getLogger("fewstep")


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


def build(options: BuildOptions, progress: Progress = SILENT) -> Build:
    """Build the missing engines, and commit them all at once. Raises UserError if one cannot be built."""
    builder = check_options(options)
    with open_for_update(options.bundle, must_exist=True, verb="build") as writer:
        assert writer.manifest is not None, "the bundle exists"
        manifest, built, kept = writer.manifest, list[EngineEntry](), list[EngineEntry]()
        parts = [make_body(part, writer) for part in network_bodies(options, builder)]
        orders = [list_orders(options, builder, part, writer.known_files) for part in parts]
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
            devices = tuple(dict.fromkeys(engine.device for engine in built if builder.module))
            commands = (*provenance.commands, _command(options, devices))
            provenance = msgspec.structs.replace(provenance, commands=commands)
            manifest = writer.commit(msgspec.structs.replace(changed, provenance=provenance))
    return Build(manifest, tuple(built), tuple(kept))


def list_requests(options: BuildOptions) -> tuple[EngineRequest, ...]:
    """Return the engines that `build` would build, without building them."""
    builder, requests = check_options(options), list[EngineRequest]()
    for part in network_bodies(options, builder):
        if part.body is None:  # `build` would create it first, so it has no engine yet
            devices = devices_of(options, builder, part) if builder.module else {}
            requests += [EngineRequest(part.name, device, False, part.network) for device in devices]
        for order in () if part.body is None else list_orders(options, builder, part, part.bundle.manifest.files):
            is_there = _find_current(part.bundle, order.key) is not None
            requests.append(EngineRequest(order.body, order.key.device, is_there, part.network))
    return tuple(requests)


def build_script(options: BuildOptions) -> str:
    """Return a shell script that builds the engines on another machine. This needs neither TensorRT nor a GPU."""
    builder = check_options(options)
    if builder.name != "tensorrt":
        raise UserError(f"there are no commands for {builder.name}", "--script is for --backend tensorrt")
    text = HEAD
    for part in network_bodies(options, builder):
        manifest, body = part.bundle.manifest, part.body
        if body is None:
            fix = f"create it with fewstep build {quote_path(options.bundle)} --precision {options.precision}"
            raise UserError(f"{options.bundle} has no body {options.precision!r}", fix)
        graphs = {**setup_graphs(manifest), **graph_names(part.name, body)}
        profile = size_profile(options, body.graph, manifest)
        text += script(graphs, body, manifest.conditions, profile, builder_flags(options), part.network)
    return text


def _write_forms(writer: Writer, part: NetworkBody, bundle: Path) -> tuple[list[EngineEntry], list[EngineEntry]]:
    """Write those rewritten graphs of a body that are missing from the bundle. Return two lists: the new ones, and
    those that were up to date."""
    new, kept = list[EngineEntry](), list[EngineEntry]()
    for name, graph in graph_names(part.name, part.body).items() if part.body is not None else ():
        keys = form_keys(graph, writer.known_files)
        current = [each for key in keys if (each := _find_current(part.bundle, key)) is not None]
        made = None if current else write_form(writer, name, graph, keys, bundle)
        kept += current
        new += [] if made is None else [made]
    return new, kept


def _drop_forms(manifest: Manifest, part: NetworkBody, kept: list[EngineEntry]) -> Manifest:
    """Return the manifest without those graphs for the CUDA provider that belong to a network's body and are not in
    `kept`."""
    own = select_network(manifest, part.network)
    others = tuple(
        engine
        for engine in own.engines
        if engine.backend != FORM_BACKEND or engine.body.partition("/")[0] != part.name or engine in kept
    )
    return replace_network(manifest, part.network, msgspec.structs.replace(own, engines=others))


def _find_current(bundle: Bundle, key: EngineKey) -> EngineEntry | None:
    """Return the undamaged engine with this key in the bundle, or None if it must be built."""
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
    """Return the manifest with new engines, and with the body of the network if it is new. They replace engines of the
    same body, backend and device."""
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
