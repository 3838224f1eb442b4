"""The engines of a body to build: their devices, types, batches and sizes."""

from collections.abc import Mapping

import msgspec

from fewstep.graph.engines.batches import BATCH, parse_batch, parse_sizes, profile_of
from fewstep.graph.engines.build_engine import BuildOrder
from fewstep.graph.engines.build_options import BuildOptions, builder_flags
from fewstep.graph.engines.builders import EngineBuilder
from fewstep.graph.engines.network_body import NetworkBody
from fewstep.graph.files.stored_graphs import load_stored
from fewstep.graph.half_types import BFLOAT16, HALVES
from fewstep.graph.passes.float32 import has_type
from fewstep.plans.errors import UserError
from fewstep.runtime.backends import RUN_ONCE, graph_names
from fewstep.runtime.bundle.engine_key import AMPERE, AMPERE_ON, EngineKey, capability
from fewstep.runtime.bundle.manifest import GraphEntry as GraphFile
from fewstep.runtime.bundle.manifest import Manifest
from fewstep.runtime.kinds.sizes import parse_dimension


def setup_graphs(manifest: Manifest) -> dict[str, GraphFile]:
    """Return the graphs that run before the first step, by name."""
    return {stage: graph for stage in RUN_ONCE if (graph := getattr(manifest, stage)) is not None}


def devices_of(options: BuildOptions, builder: EngineBuilder, part: NetworkBody) -> dict[str, int | None]:
    """Return the devices for which a body is to be built, each with its number of multiprocessors, or None if that is
    unknown. Raises UserError for a device that lacks the body's float type."""
    devices = builder.targets(options.device, builder_flags(options))
    old = [device for device in devices if device != AMPERE_ON and capability(device) < AMPERE]
    if old and (part.name == BFLOAT16.name if part.name in HALVES else _has_bfloat16(part)):
        what = f"{old[0]} has no bfloat16" + (", which this int8 body uses" if options.precision == "int8" else "")
        raise UserError(what, "build for Ampere (sm80) or later, or another --precision")
    return devices


def _has_bfloat16(part: NetworkBody) -> bool:
    graphs = () if part.body is None else part.body.graphs
    return any(has_type(load_stored(part.bundle, graph), BFLOAT16) for graph in graphs)


def list_orders(
    options: BuildOptions, builder: EngineBuilder, part: NetworkBody, hashes: Mapping[str, str]
) -> tuple[BuildOrder, ...]:
    """Return all engines to build: for each device, the engines of the graphs that run before the first step, and of
    the body's graphs."""
    if builder.writes_forms and part.body is not None and options.opt_batch is not None:
        parse_batch(options.opt_batch, part.body.graph, part.bundle.manifest.sizes, part.bundle.manifest.x_shape)
    if builder.module is None or part.body is None:
        return ()
    flags = builder_flags(options)
    sizes = size_profile(options, part.body.graph, part.bundle.manifest)
    if builder.has_one_size:
        sizes = {name: (preferred,) * 3 for name, (_, preferred, _) in sizes.items()}
    batches = sizes.pop(BATCH)
    common = EngineKey("", (), batches, flags, builder.name, builder.version(), device="", sizes=sizes)
    orders = []
    for device, multiprocessors in devices_of(options, builder, part).items():
        key = msgspec.structs.replace(common, device=device, multiprocessors=multiprocessors)
        for each, graph in setup_graphs(part.bundle.manifest).items() if device not in builder.no_float32 else ():
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


def size_profile(options: BuildOptions, graph: GraphFile, manifest: Manifest) -> dict[str, tuple[int, int, int]]:
    """Return the (smallest, preferred, largest) batch and free sizes."""
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
