"""Copy the part of a bundle that a device needs: some bodies, and the files that are needed to run them."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath
from typing import Any, TypeVar

import msgspec

from fewstep.graph.files import io
from fewstep.graph.files.commit import Writer, open_for_update
from fewstep.graph.files.stored_graphs import load_stored
from fewstep.plans.errors import UserError
from fewstep.plans.file import decode, encode
from fewstep.runtime.backends import RUN_ONCE, graph_names
from fewstep.runtime.bundle.manifest import Body, EngineEntry, FittedPlan, GraphEntry, Manifest
from fewstep.runtime.bundle.networks import shared_graphs
from fewstep.runtime.bundle.platforms import ONNXRUNTIME, WEIGHTS_ONLY, platform_of
from fewstep.runtime.bundle.reading import Bundle
from fewstep.runtime.kinds.kind import kinds
from fewstep.runtime.options import BundleOptions
from fewstep.runtime.sampling.fitted_plans import graph_of_fit

Entry = TypeVar("Entry", bound=GraphEntry)


@dataclass(frozen=True)
class PackOptions(BundleOptions):
    """Copy the part of a bundle that a device needs: some of its bodies, and the files that they use.

    bundle: The bundle to copy from; it stays unchanged.
    output: Folder of the new bundle.
    body: Names of the bodies to copy, such as int8-cpu-x86. Default: all int8 bodies for ONNX Runtime on CPUs
        (int8-cpu-...), or those of weights alone in a bundle without float32.
    """

    output: Path = field(metadata={"short": "-o"})
    body: tuple[str, ...] = ()


def pack(options: PackOptions) -> Manifest:
    """Write a new bundle with the chosen bodies and their prologue, plans, ranges and engines.

    Bodies share one file for equal weights. A bundle without float32 can be run, but not calibrated again or compared
    with float32.
    """
    bundle = options.open()
    bodies = bundle.manifest.bodies
    wanted = options.body or tuple(name for name, body in bodies.items() if _is_for_cpus(body))
    if "float32" not in bodies:  # exported so
        wanted = wanted or tuple(name for name in bodies if name in WEIGHTS_ONLY)
    if not wanted:
        fix = f"calibrate it first, or choose one of {', '.join(bundle.manifest.bodies)} with --body"
        raise UserError(f"{options.bundle} has no int8 body for CPUs", fix)
    if options.output.exists() and options.output.resolve() == options.bundle.resolve():
        raise UserError(f"{options.output} is the bundle to copy from", "give another folder with -o")
    chosen = {name: bundle.body(name) for name in wanted}
    with open_for_update(options.output, must_exist=False) as writer:
        manifest, own = bundle.manifest, _pack_network(writer, bundle, wanted)
        networks = {
            name: msgspec.structs.replace(entry, **_pack_network(writer, bundle.select_network(name), wanted))
            for name, entry in manifest.networks.items()
        }
        calibrated = dict.fromkeys(body.plan for body in chosen.values() if body.plan in manifest.plans)
        plans = {name: _copy_file(writer, bundle, manifest.plans[name]) for name in calibrated if name is not None}
        packed = msgspec.structs.replace(manifest, **own, networks=networks, files=dict(writer.files))
        fitted = tuple(
            _pack_fitted_plan(writer, bundle, entry, packed)
            for entry in manifest.fitted
            if entry.body in chosen or entry.body == "float32"  # other bodies run its plans too
        )
        _copy_files_of_kinds(writer, bundle)
        command = f"fewstep pack BUNDLE -o BUNDLE --body {','.join(chosen)}"
        provenance = manifest.provenance
        return writer.commit(
            msgspec.structs.replace(
                packed,
                plans=plans,
                fitted=fitted,
                scheduler=None if manifest.scheduler is None else _copy_file(writer, bundle, manifest.scheduler),
                report=None,
                results=None,
                evaluation=None,
                files={},
                provenance=msgspec.structs.replace(provenance, commands=(*provenance.commands, command)),
            )
        )


def _pack_network(writer: Writer, bundle: Bundle, wanted: Sequence[str]) -> dict[str, Any]:
    """Copy one network of a bundle with the wanted bodies. Return the fields of a manifest that has only this
    network. The graphs that a single body runs instead of shared ones replace those of the bundle."""
    bundle = bundle.with_graphs_of(wanted[0]) if len(wanted) == 1 else bundle
    manifest = bundle.manifest
    shared = {name: _pack_graph(writer, bundle, name, graph) for name, graph in shared_graphs(manifest).items()}
    setup = {name: shared.get(name) for name in RUN_ONCE}
    others = {field: kind.with_companions(shared) for field, kind in kinds(manifest) if kind.companions()}
    bodies = {name: _body(writer, bundle, name, bundle.body(name)) for name in wanted}
    for name, body in bodies.items():
        replaced = {which: _pack_graph(writer, bundle, which, graph) for which, graph in body.replaces.items()}
        ranges = None if body.ranges is None else _copy_file(writer, bundle, body.ranges)
        bodies[name] = msgspec.structs.replace(body, ranges=ranges, replaces=replaced)
    return {
        **setup,
        **others,
        "bodies": bodies,
        "engines": tuple(_copy_engine(writer, bundle, engine) for engine in _engines_of(tuple(wanted), manifest)),
        "ranges": None if manifest.ranges is None else _copy_file(writer, bundle, manifest.ranges),
        "verification": None,
        "precision": None,
    }


def _pack_fitted_plan(writer: Writer, bundle: Bundle, entry: FittedPlan, packed: Manifest) -> FittedPlan:
    """Copy a plan that was fitted to a body. If packing changes the hash of the body's graph, the hash stored in the
    plan is replaced too, because the graph computes the same."""
    plan, graph = decode(bundle.read(entry.file), entry.file), graph_of_fit(packed, entry.body)
    if plan.fitted is not None and graph is not None:
        graph = graph if plan.fitted.graph == graph_of_fit(bundle.manifest, entry.body) else plan.fitted.graph
        plan = msgspec.structs.replace(plan, fitted=msgspec.structs.replace(plan.fitted, graph=graph))
    name = f"fitted-{entry.evaluations}-{entry.body}"
    return msgspec.structs.replace(entry, file=writer.add(encode(plan), "plans", name, ".json"))


def _is_for_cpus(body: Body) -> bool:
    """Return True for int8 bodies that onnxruntime runs."""
    platform = platform_of(body.target, body.platform)
    return body.precision == "int8" and platform is not None and platform.backend == ONNXRUNTIME


def _engines_of(bodies: tuple[str, ...], manifest: Manifest) -> list[EngineEntry]:
    """Return the engines of these bodies, and the engines for the same devices of the graphs that run before the first
    step."""
    own = [engine for engine in manifest.engines if engine.body.partition("/")[0] in bodies]
    places = {(engine.backend, engine.device) for engine in own}
    setup = (engine for engine in manifest.engines if engine.body in RUN_ONCE)
    return [*(engine for engine in setup if (engine.backend, engine.device) in places), *own]


def _body(writer: Writer, bundle: Bundle, name: str, body: Body) -> Body:
    """Copy the graphs of a body to the packed bundle, and return the body's manifest entry there. The large constants
    of its last graph are written to files that other bodies may share."""
    last, *others = graph_names(name, body).items()
    earlier = [_pack_graph(writer, bundle, *entry) for entry in others]
    return msgspec.structs.replace(body, graphs=(*earlier, _pack_graph(writer, bundle, *last, shares=True)))


def _pack_graph(writer: Writer, bundle: Bundle, name: str, graph: Entry, shares: bool = False) -> Entry:
    """Copy a graph with only those weights that it reads, even if it shares weight files with other graphs.

    A graph from which an engine was built is copied unchanged, since the engine's key contains the hashes of graph and
    weights. A graph that contains all its weights is also copied unchanged, unless `shares` is true.
    """
    is_built = any(engine.body == name for engine in bundle.manifest.engines)
    if is_built or not (graph.data or shares):
        return _copy(writer, bundle, graph)
    loaded = load_stored(bundle, graph)
    file, data = io.store(writer, loaded, name.replace("/", "-").replace(" ", "-"), external_above=0)
    return msgspec.structs.replace(graph, file=file, data=data)


def _copy(writer: Writer, bundle: Bundle, graph: Entry) -> Entry:
    """Copy a graph's files unchanged. Data files keep their names, since the graph refers to them by name."""
    bundle.graph(graph)
    for name in graph.data:
        if _copy_file(writer, bundle, name) != name:
            raise UserError(f"weight file {name!r} does not carry its hash in its name", "export the bundle again")
    return msgspec.structs.replace(graph, file=_copy_file(writer, bundle, graph.file))


def _copy_files_of_kinds(writer: Writer, bundle: Bundle) -> None:
    """Copy the files of optional properties (`runtime/kinds`) except graphs, and the files of null values. All keep
    their names."""
    manifest = bundle.manifest
    nulls = (condition.null_file for condition in manifest.conditions if condition.null_file is not None)
    for name in (*nulls, *(file for _, kind in kinds(manifest) for file in kind.files())):
        if _copy_file(writer, bundle, name) != name:
            raise UserError(
                f"{bundle.path}: the name of file {name} lacks the hash of its content", bundle.export_again
            )


def _copy_engine(writer: Writer, bundle: Bundle, engine: EngineEntry) -> EngineEntry:
    return msgspec.structs.replace(
        engine, file=_copy_file(writer, bundle, engine.file), sidecar=_copy_file(writer, bundle, engine.sidecar)
    )


def _copy_file(writer: Writer, bundle: Bundle, name: str) -> str:
    """Copy a file of the bundle under the same name, which contains its hash."""
    folder, path = PurePosixPath(name).parent.as_posix(), bundle.file(name)
    stem, _, last = path.name.rpartition("-")
    suffix = "".join(PurePosixPath(last).suffixes)
    return writer.add_copy(path, folder, stem or last.removesuffix(suffix), suffix)
