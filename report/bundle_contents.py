"""The contents of a bundle: graphs as they run here, operations in int8, half or float with reasons, plans, sizes.

The JSON of `fewstep inspect` is the structs of this file.
"""

from collections import Counter
from collections.abc import Collection, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

import msgspec
import onnx

from fewstep.calibration.lowering.coverage import count_operation_macs, optimize_graph
from fewstep.calibration.ranges.read_table import load as load_ranges
from fewstep.graph import io
from fewstep.graph.engine_operations import find_unparsed, minimum_version, version_text
from fewstep.graph.engines.engine_costs import EngineCost, read_costs
from fewstep.graph.graph import Graph
from fewstep.graph.half_types import HALVES
from fewstep.graph.selection import CONTRIB
from fewstep.measure.bodies import ranges_file, ranges_files
from fewstep.measure.body_backends import is_run_by_onnxruntime
from fewstep.measure.results import Operation
from fewstep.plans.errors import UserError
from fewstep.plans.file import decode_any
from fewstep.plans.guidance import describe, weight_of
from fewstep.report.drawing.plan_view import plan_headline
from fewstep.report.operations import float_operations, operation_coverage, unseen_tensors
from fewstep.runtime.bundle.fit_command import refit_command
from fewstep.runtime.bundle.manifest import Body, Coverage, FittedPlan, Manifest, TensorEntry
from fewstep.runtime.bundle.manifest import GraphEntry as GraphFile
from fewstep.runtime.bundle.platforms import PORTABLE, TENSORRT, platform_of
from fewstep.runtime.bundle.reading import MANIFEST, Bundle, open_bundle
from fewstep.runtime.kinds.companions import companions
from fewstep.runtime.options import Options
from fewstep.runtime.sampling.fitted_plans import read_fitted_plans

NCHWC = f"{CONTRIB}.nchwc"
LAYOUT = ("nchwc.ReorderInput", "nchwc.ReorderOutput")  # fuse nothing


@dataclass(frozen=True)
class InspectOptions(Options):
    """Show what is in a bundle: graphs, plans, engines, sizes, and which operations run in which type, and why.

    bundle: The bundle's folder, or a file of `fewstep bake`.
    operations: List every operation that multiplies, instead of their number alone.
    """

    bundle: Path
    operations: bool = False


class Struct(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Base of what is shown."""


class GraphContents(Struct, frozen=True):
    """A graph as stored, and what onnxruntime makes of it on this machine (None: another engine runs it).

    `fused` are nodes of onnxruntime's own operations that only the optimized graph has: made of several, or faster.
    `engine` says which TensorRT parses the graph, or which operation none does; nothing for a graph that is for another
    engine.
    """

    file: str
    bytes: int  # with its weight files
    inputs: tuple[TensorEntry, ...]
    outputs: tuple[TensorEntry, ...]
    operations: dict[str, int]  # nodes by operation, the most frequent first
    optimized: dict[str, int] | None
    fused: dict[str, int]
    engine: str | None


class Share(Struct, frozen=True):
    """The operations of one type, and the reasons where that is not int8: how many operations have each."""

    type: str
    operations: int
    macs: int  # per sample
    reasons: dict[str, int]


class StepGraphContents(Struct, frozen=True):
    """A graph that runs the steps with lambda below `until` in place of the body's last one, with more in float."""

    until: float
    graph: GraphContents
    coverage: Coverage


class BodyContents(Struct, frozen=True):
    """The graphs of one deployable form of the denoiser, beside what the manifest says of it. `multiplying` are its
    operations that multiply, in order, by their types; `uncounted` says why they are not there."""

    graph: GraphContents
    shares: tuple[Share, ...]
    multiplying: tuple[Operation, ...]
    earlier: tuple[StepGraphContents, ...] = ()
    uncounted: str = ""


class RangesContents(Struct, frozen=True):
    """A ranges table: the bodies that were lowered by it, along which plan, by which method, of how many tensors, in
    how many lambda groups."""

    bodies: tuple[str, ...]
    file: str
    plan: str
    method: str
    tensors: int
    groups: int


class FittedContents(FittedPlan, frozen=True):
    """A fitted plan, with its guidance in words and the command that fits it again, or in words where that runs."""

    guidance: str
    command: str


class VerifiedStage(Struct, frozen=True, forbid_unknown_fields=False):
    """A comparison of `export` with the denoiser as it was given: at one stage the largest of all points."""

    stage: str
    relative: float
    time: float
    batch: int
    edge: str = ""  # the value of a condition, as "mask all 0"
    points: int = 1


class NetworkContents(Struct, frozen=True):
    """The graphs of one network. The manifest has the rest."""

    conditioner: GraphContents | None
    prologue: GraphContents | None
    bodies: dict[str, BodyContents]


class Contents(NetworkContents, frozen=True):
    """A bundle: its manifest, and what its files hold. Sizes in bytes. The graphs are the denoiser's."""

    path: str
    bytes: int
    manifest: Manifest
    verified: tuple[VerifiedStage, ...]
    plans: dict[str, str]  # in a line each
    fitted: tuple[FittedContents, ...]
    ranges: tuple[RangesContents, ...]
    files: dict[str, int]
    companions: dict[str, GraphContents]
    scheduler: str | None  # the class of diffusers that came with the denoiser
    unreadable: dict[str, str]  # of files that are missing or damaged, what to do
    networks: dict[str, NetworkContents]  # beside the denoiser
    engines: dict[str, EngineCost]  # what engines of the denoiser do in a step, by file, where their text shows it


def inspect(options: InspectOptions) -> Contents:
    """Read a bundle. Every graph is read and, where onnxruntime runs it, opened once."""
    bundle = open_bundle(options.bundle)
    manifest = bundle.manifest
    files, unreadable = _files(bundle)
    stored = {name: file for name, file in manifest.plans.items() if file not in unreadable}
    plans = {name: plan_headline(decode_any(bundle.read(file), file)) for name, file in stored.items()}
    return Contents(
        path=str(options.bundle),
        bytes=sum(files.values()) + (bundle.path / MANIFEST).stat().st_size,
        manifest=manifest,
        verified=() if manifest.verification in unreadable else read_verified_stages(bundle),
        plans=plans,
        fitted=read_fitted_contents(bundle),
        ranges=_ranges(bundle, unreadable),
        files=files,
        companions={name: _graph(bundle, graph)[0] for name, graph in companions(manifest).items()},
        scheduler=None if manifest.scheduler in unreadable else _scheduler(bundle),
        unreadable=unreadable,
        networks={name: _network(bundle.select_network(name), unreadable) for name in manifest.networks},
        engines=read_costs(bundle),
        **msgspec.structs.asdict(_network(bundle, unreadable)),
    )


def _network(bundle: Bundle, unreadable: Collection[str]) -> NetworkContents:
    """The graphs of the denoiser of a bundle, or of the network that a bundle is a part for."""
    manifest, base = bundle.manifest, bundle.manifest.bodies.get("float32")
    prepared = None if base is None else io.load(bundle.graph(base.graph), root=bundle.path)
    bodies = {name: _body(bundle, name, body, prepared, unreadable) for name, body in manifest.bodies.items()}
    conditioner, prologue = (
        None if graph is None else _graph(bundle, graph)[0] for graph in (manifest.conditioner, manifest.prologue)
    )
    return NetworkContents(conditioner, prologue, bodies)


def _files(bundle: Bundle) -> tuple[dict[str, int], dict[str, str]]:
    """The sizes of the files that can be read; and of the others, what is wrong and what to do. UserError for a graph,
    which most of the contents are read from."""
    sizes, unreadable = dict[str, int](), dict[str, str]()
    for name in bundle.manifest.files:
        try:
            sizes[name] = bundle.file(name).stat().st_size
        except UserError as error:
            unreadable[name] = str(error)
    return sizes, unreadable


def _scheduler(bundle: Bundle) -> str | None:
    """The class that a scheduler config names, if the bundle has one."""
    file = bundle.manifest.scheduler
    config = None if file is None else msgspec.json.decode(bundle.read(file))
    return str(config.get("_class_name")) if isinstance(config, dict) else None


def read_fitted_contents(bundle: Bundle) -> tuple[FittedContents, ...]:
    """The fitted plans of a bundle; those whose files cannot be read are left out."""
    manifest, entries = bundle.manifest, []
    for each in manifest.fitted:
        for plan in read_fitted_plans(bundle, [each])[0]:
            command = refit_command(bundle.path, manifest, each.evaluations, weight_of(plan.guidance))
            entry, said = msgspec.structs.asdict(each), describe(plan.guidance)
            entries.append(FittedContents(**entry, guidance=said, command=command))
    return tuple(entries)


def _graph(
    bundle: Bundle, graph: GraphFile, runs_here: bool = True, parsed: bool = True
) -> tuple[GraphContents, Graph]:
    read = io.load(bundle.graph(graph), root=bundle.path)
    stored = Counter(read.ops())
    nodes = optimize_graph(read) if runs_here else None
    counted = Counter(map(_kind, nodes or ()))
    contrib = {_kind(node) for node in nodes or () if node.domain.startswith(CONTRIB)}
    contents = GraphContents(
        file=graph.file,
        bytes=sum((bundle.path / name).stat().st_size for name in (graph.file, *graph.data)),
        inputs=graph.inputs,
        outputs=graph.outputs,
        operations=dict(stored.most_common()),
        optimized=None if nodes is None else dict(counted.most_common()),
        fused={op: n for op, n in counted.most_common() if op in contrib and op not in stored and op not in LAYOUT},
        engine=_required_engine(read) if parsed else None,
    )
    return contents, read


def _kind(node: onnx.NodeProto) -> str:
    """The operation of an optimized graph; convolutions in onnxruntime's own layout are a kind of their own."""
    return f"nchwc.{node.op_type}" if node.domain == NCHWC else str(node.op_type)


def _required_engine(graph: Graph) -> str:
    version = minimum_version(graph)
    return f"TensorRT {version_text(version)}" if version else "; ".join(map(str, find_unparsed(graph)))


def _body(bundle: Bundle, name: str, body: Body, prepared: Graph | None, unreadable: Collection[str]) -> BodyContents:
    runs_here = is_run_by_onnxruntime(body)
    contents, lowered = _graph(bundle, body.graph, runs_here, _is_for_engines(body))
    earlier = tuple(
        StepGraphContents(each.until, _graph(bundle, each, runs_here, parsed=False)[0], each.coverage)
        for each in body.graphs
        if each.until is not None and each.coverage is not None
    )
    uncounted = _why_uncounted(prepared)
    if prepared is None or uncounted:
        return _make_uncounted_body(body, contents, earlier, uncounted)
    work = count_operation_macs(prepared)
    outputs = [node.output for node in prepared.nodes if node.output in work]
    none = Coverage(int8_macs=0, total_macs=sum(work.values()), int8_ops=(), float_ops=tuple(outputs))
    unseen = () if ranges_file(bundle, body) in unreadable else unseen_tensors(bundle, body)
    multiplying = operation_coverage(
        prepared, name, body.graph.coverage or none, unseen, float_operations(body)
    ).operations
    if body.graph.coverage is None:  # a body that is float anyway: nothing was decided of its operations
        multiplying = tuple(msgspec.structs.replace(operation, reason="") for operation in multiplying)
    held = {array.dtype for array in lowered.constants.values()}  # a graph has one float type
    float_type = next((name for name, half in HALVES.items() if half in held), "float32")
    multiplying = tuple(
        op if op.precision == "int8" else msgspec.structs.replace(op, precision=float_type) for op in multiplying
    )
    return BodyContents(contents, tuple(_shares(multiplying)), multiplying, earlier)


def _is_for_engines(body: Body) -> bool:
    """True for bodies whose graphs TensorRT parses."""
    platform = platform_of(body.target, body.platform)
    return body.target == PORTABLE or (platform is not None and platform.backend == TENSORRT.backend)


def _why_uncounted(prepared: Graph | None) -> str:
    """The reason why operations of the float32 body cannot be counted, empty if they can."""
    if prepared is None:
        return "the bundle has no float32 body to count them in"
    own = next((node for node in prepared.nodes if node.domain.startswith(CONTRIB)), None)
    if own is None:
        return ""
    return f"{own.name or own.output!r} is a {own.op} of onnxruntime's own, behind which no shape is known"


def _make_uncounted_body(
    body: Body, contents: GraphContents, earlier: tuple[StepGraphContents, ...], uncounted: str
) -> BodyContents:
    """A body of which no more is known than what calibration counted, if it is int8."""
    shares: tuple[Share, ...] = ()
    if (counted := body.graph.coverage) is not None:
        in_float = counted.total_macs - counted.int8_macs
        shares = (
            Share("int8", len(counted.int8_ops), counted.int8_macs, {}),
            Share("float", len(counted.float_ops), in_float, {}),
        )
    return BodyContents(contents, shares, (), earlier, uncounted)


def _shares(multiplying: Iterable[Operation]) -> Iterator[Share]:
    """Operations by type, int8 first."""
    by_type: dict[str, list[Operation]] = {}
    for operation in multiplying:
        by_type.setdefault(operation.precision, []).append(operation)
    for kind, own in sorted(by_type.items(), key=lambda item: item[0] != "int8"):
        reasons = Counter(operation.reason for operation in own if operation.reason)
        yield Share(kind, len(own), sum(operation.macs for operation in own), dict(reasons.most_common()))


def _ranges(bundle: Bundle, unreadable: Collection[str]) -> tuple[RangesContents, ...]:
    tables = []
    for file, bodies in ranges_files(bundle).items():
        if file in unreadable:
            continue
        own = load_ranges(bundle.file(file))
        tables.append(RangesContents(bodies, file, own.plan, own.method, len(own.tensors), len(own.groups) + 1))
    return tuple(tables)


def read_verified_stages(bundle: Bundle) -> tuple[VerifiedStage, ...]:
    """The bundle's table, a line a stage."""
    file = bundle.manifest.verification
    if file is None:
        return ()
    table = msgspec.json.decode(bundle.read(file), type=dict[str, msgspec.Raw])
    by_stage: dict[str, list[VerifiedStage]] = {}
    for each in msgspec.json.decode(table["comparisons"], type=list[VerifiedStage]):
        by_stage.setdefault(each.stage, []).append(each)
    return tuple(
        msgspec.structs.replace(max(own, key=lambda each: each.relative), points=len(own)) for own in by_stage.values()
    )
