"""The contents of a bundle: its graphs as they run here, the type of each operation and the reason for it, plans,
sizes.

The structs of this file are the JSON of `fewstep inspect`.
"""

from collections import Counter
from collections.abc import Collection, Iterable, Iterator
from dataclasses import dataclass
from typing import Any

import msgspec
import onnx

from fewstep.calibration.lowering.coverage import count_operation_macs, optimize_graph
from fewstep.calibration.ranges.read_table import load as load_ranges
from fewstep.graph.engine_operations import find_unparsed, minimum_version, version_text
from fewstep.graph.engines.engine_costs import EngineCost, read_costs
from fewstep.graph.files.stored_graphs import load_stored
from fewstep.graph.graph import Graph
from fewstep.graph.half_types import HALVES
from fewstep.graph.selection import CONTRIB
from fewstep.measure.bodies import ranges_file, ranges_files
from fewstep.measure.body_backends import is_run_by_onnxruntime
from fewstep.measure.results import Operation
from fewstep.plans.any_plan import plan_headline
from fewstep.plans.configs.recorded_steps import read_steps
from fewstep.plans.errors import UserError
from fewstep.plans.file import decode_any
from fewstep.plans.guidance import describe, weight_of
from fewstep.report.operations import float_operations, operation_coverage, unseen_tensors
from fewstep.runtime.bundle.fit_command import refit_command
from fewstep.runtime.bundle.manifest import Body, Coverage, FittedPlan, Manifest, TensorEntry
from fewstep.runtime.bundle.manifest import GraphEntry as GraphFile
from fewstep.runtime.bundle.platforms import PORTABLE, TENSORRT, platform_of
from fewstep.runtime.bundle.reading import MANIFEST, Bundle
from fewstep.runtime.kinds.companions import companions
from fewstep.runtime.options import BundleOptions
from fewstep.runtime.sampling.fitted_plans import read_fitted_plans

NCHWC = f"{CONTRIB}.nchwc"
LAYOUT = ("nchwc.ReorderInput", "nchwc.ReorderOutput")  # operations that change the memory layout, and are no fusions


@dataclass(frozen=True)
class InspectOptions(BundleOptions):
    """Show the contents of a bundle: graphs, plans, engines, sizes, and the type of each operation with its reason.

    bundle: The folder of the bundle (an exported model), or a file from `fewstep bake`.
    operations: List every matrix product and convolution. Default: only their number.
    """

    operations: bool = False


class Struct(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Base of the structs of this file."""


class GraphContents(Struct, frozen=True):
    """A graph as stored, and as optimized by onnxruntime on this machine.

    optimized: nodes by operation; None if another engine runs the graph.
    fused: onnxruntime's own operations that only the optimized graph has: fusions, or faster forms.
    engine: the oldest TensorRT that parses the graph, or the operations that no TensorRT parses; None for a graph that
        is for another engine.
    """

    file: str
    bytes: int  # including its weight files
    inputs: tuple[TensorEntry, ...]
    outputs: tuple[TensorEntry, ...]
    operations: dict[str, int]  # nodes by operation, the most frequent first
    optimized: dict[str, int] | None
    fused: dict[str, int]
    engine: str | None


class Share(Struct, frozen=True):
    """The operations of one type. `reasons` says why they are not int8, with the number of operations for each
    reason."""

    type: str
    operations: int
    macs: int  # per sample
    reasons: dict[str, int]


class StepGraphContents(Struct, frozen=True):
    """A graph that runs the steps with lambda below `until` instead of the body's last graph, and has more operations
    in float."""

    until: float
    graph: GraphContents
    coverage: Coverage


class BodyContents(Struct, frozen=True):
    """The graphs of one deployable form of the denoiser, in addition to its entry in the manifest.

    multiplying: its matrix products and convolutions, in order, with their types. uncounted: the reason why they are
    missing, or empty.
    """

    graph: GraphContents
    shares: tuple[Share, ...]
    multiplying: tuple[Operation, ...]
    earlier: tuple[StepGraphContents, ...] = ()
    uncounted: str = ""


class RangesContents(Struct, frozen=True):
    """A ranges table: the bodies quantized with it, the calibrated plan, the method, and the number of tensors and of
    range groups."""

    bodies: tuple[str, ...]
    file: str
    plan: str
    method: str
    tensors: int
    groups: int


class FittedContents(FittedPlan, frozen=True):
    """A fitted plan, with its guidance as text, and the command that fits it again (or a text that says in which
    bundle)."""

    guidance: str
    command: str


class VerifiedStage(Struct, frozen=True, forbid_unknown_fields=False):
    """The largest difference from the original denoiser at one stage of `export`, over all compared points."""

    stage: str
    relative: float
    time: float
    batch: int
    edge: str = ""  # the value of a condition, as "mask all 0"
    points: int = 1


class VerifiedStages(Struct, frozen=True, forbid_unknown_fields=False):
    """The verification table of a bundle."""

    comparisons: tuple[VerifiedStage, ...]


class NetworkContents(Struct, frozen=True):
    """The graphs of one network. All other facts are in the manifest."""

    conditioner: GraphContents | None
    prologue: GraphContents | None
    bodies: dict[str, BodyContents]


class Contents(NetworkContents, frozen=True):
    """A bundle: its manifest and the contents of its files. Sizes are in bytes. The graphs are the denoiser's."""

    path: str
    bytes: int
    manifest: Manifest
    verified: tuple[VerifiedStage, ...]
    plans: dict[str, str]  # one line each
    fitted: tuple[FittedContents, ...]
    ranges: tuple[RangesContents, ...]
    files: dict[str, int]
    companions: dict[str, GraphContents]
    scheduler: str | None  # the diffusers class of the denoiser's own scheduler
    unreadable: dict[str, str]  # each missing or damaged file -> its fault and the fix
    networks: dict[str, NetworkContents]  # networks besides the denoiser
    engines: dict[str, EngineCost]  # the work of a step in the denoiser's engines, by file, if it is known
    scheduler_steps: tuple[int, ...] = ()  # the numbers of steps that are stored as recorded, if no rule gives them


def inspect(options: InspectOptions) -> Contents:
    """Return the contents of a bundle. Every graph is read, and opened once if onnxruntime runs it."""
    bundle = options.open()
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
        scheduler_steps=() if manifest.scheduler in unreadable else _scheduler_steps(bundle),
        unreadable=unreadable,
        networks={name: _network(bundle.select_network(name), unreadable) for name in manifest.networks},
        engines=read_costs(bundle),
        **msgspec.structs.asdict(_network(bundle, unreadable)),
    )


def _network(bundle: Bundle, unreadable: Collection[str]) -> NetworkContents:
    """Return the graphs of a bundle's denoiser, or of the network that was selected in the bundle."""
    manifest, base = bundle.manifest, bundle.manifest.bodies.get("float32")
    prepared = None if base is None else load_stored(bundle, base.graph)
    bodies = {name: _body(bundle, name, body, prepared, unreadable) for name, body in manifest.bodies.items()}
    conditioner, prologue = (
        None if graph is None else _graph(bundle, graph)[0] for graph in (manifest.conditioner, manifest.prologue)
    )
    return NetworkContents(conditioner, prologue, bodies)


def _files(bundle: Bundle) -> tuple[dict[str, int], dict[str, str]]:
    """Return the sizes of the readable files, and for each other file its fault and fix."""
    sizes, unreadable = dict[str, int](), dict[str, str]()
    for name in bundle.manifest.files:
        try:
            sizes[name] = bundle.file(name).stat().st_size
        except UserError as error:
            unreadable[name] = str(error)
    return sizes, unreadable


def _scheduler(bundle: Bundle) -> str | None:
    """Return the class name in the scheduler config of a bundle; None without one."""
    file = bundle.manifest.scheduler
    config = None if file is None else bundle.decode(file, dict[str, Any])
    return None if config is None else str(config.get("_class_name"))


def _scheduler_steps(bundle: Bundle) -> tuple[int, ...]:
    """Return the numbers of steps that are stored as recorded in the scheduler config of a bundle."""
    file = bundle.manifest.scheduler
    stored = None if file is None else read_steps(bundle.decode(file, dict[str, Any]))
    return tuple(sorted(stored or ()))


def read_fitted_contents(bundle: Bundle) -> tuple[FittedContents, ...]:
    """Return the fitted plans of a bundle, without those whose files cannot be read."""
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
    read = load_stored(bundle, graph)
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
    """Return the kind of a node in an optimized graph. Convolutions in onnxruntime's own layout are a separate kind."""
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
    if body.graph.coverage is None:  # a float body, for which no operation was selected
        multiplying = tuple(msgspec.structs.replace(operation, reason="") for operation in multiplying)
    dtypes = {array.dtype for array in lowered.constants.values()}  # a graph has only one float type
    float_type = next((name for name, half in HALVES.items() if half in dtypes), "float32")
    multiplying = tuple(
        op if op.precision == "int8" else msgspec.structs.replace(op, precision=float_type) for op in multiplying
    )
    return BodyContents(contents, tuple(_shares(multiplying)), multiplying, earlier)


def _is_for_engines(body: Body) -> bool:
    """Return whether TensorRT parses the graphs of a body."""
    platform = platform_of(body.target, body.platform)
    return body.target == PORTABLE or (platform is not None and platform.backend == TENSORRT.backend)


def _why_uncounted(prepared: Graph | None) -> str:
    """Return the reason why operations of the float32 body cannot be counted; empty if they can."""
    if prepared is None:
        return "the bundle has no float32 body to count them in"
    own = next((node for node in prepared.nodes if node.domain.startswith(CONTRIB)), None)
    if own is None:
        return ""
    return f"{own.name or own.output!r} is a {own.op}, an operation of onnxruntime's own after which shapes are unknown"


def _make_uncounted_body(
    body: Body, contents: GraphContents, earlier: tuple[StepGraphContents, ...], uncounted: str
) -> BodyContents:
    """Return the contents of a body with only the counts of calibration, if it is int8."""
    shares: tuple[Share, ...] = ()
    if (counted := body.graph.coverage) is not None:
        in_float = counted.total_macs - counted.int8_macs
        shares = (
            Share("int8", len(counted.int8_ops), counted.int8_macs, {}),
            Share("float", len(counted.float_ops), in_float, {}),
        )
    return BodyContents(contents, shares, (), earlier, uncounted)


def _shares(multiplying: Iterable[Operation]) -> Iterator[Share]:
    """Yield the operations grouped by type, int8 first."""
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
    """Return the largest difference of each stage from the verification table of a bundle."""
    file = bundle.manifest.verification
    if file is None:
        return ()
    by_stage: dict[str, list[VerifiedStage]] = {}
    for each in bundle.decode(file, VerifiedStages).comparisons:
        by_stage.setdefault(each.stage, []).append(each)
    return tuple(
        msgspec.structs.replace(max(own, key=lambda each: each.relative), points=len(own)) for own in by_stage.values()
    )
