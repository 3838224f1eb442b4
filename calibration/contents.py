"""What is in a bundle: graphs and how they run here, which operations are int8, half or float and why, plans, sizes."""

from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

import msgspec
import numpy as np

from fewstep.calibration.bodies import NATIVE
from fewstep.calibration.lowering.coverage import macs, optimized
from fewstep.calibration.ranges import table
from fewstep.calibration.report.operations import operations
from fewstep.calibration.results import Operation
from fewstep.graph import io
from fewstep.graph.graph import Graph
from fewstep.runtime.bundle import MANIFEST, Bundle, open_bundle
from fewstep.runtime.guidance import describe
from fewstep.runtime.manifest import Body, Condition, Coverage, Engine, Provenance, ScheduleSpec, Tensor
from fewstep.runtime.manifest import Graph as GraphFile
from fewstep.runtime.plan_file import decode

RUN_HERE = ("portable", *NATIVE)  # targets whose graphs onnxruntime runs as they are deployed


@dataclass(frozen=True)
class InspectOptions:
    """Show what is in a bundle: graphs, plans, engines, sizes, and which operations run in which type, and why.

    bundle: The bundle's folder.
    operations: List every operation that multiplies, not only how many.
    """

    bundle: Path
    operations: bool = False


class Struct(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Base of what is shown."""


class GraphContents(Struct, frozen=True):
    """A graph as stored, and what onnxruntime makes of it on this machine (None: another engine runs it)."""

    file: str
    bytes: int  # with its weight files
    inputs: tuple[Tensor, ...]
    outputs: tuple[Tensor, ...]
    operations: dict[str, int]  # nodes by operation, the most frequent first
    optimized: dict[str, int] | None

    @property
    def fused(self) -> tuple[str, ...]:
        """Operations that only the optimized graph has: what onnxruntime made of several."""
        return tuple(op for op in self.optimized or () if op not in self.operations)


class Share(Struct, frozen=True):
    """What runs in one type, and the reasons where that is not int8: how many operations have each."""

    type: str
    operations: int
    macs: int  # per sample
    reasons: dict[str, int]


class StageContents(Struct, frozen=True):
    """A graph that runs the steps of the range groups below `until` in place of the body's own, with more in float."""

    until: int
    graph: GraphContents
    coverage: Coverage


class BodyContents(Struct, frozen=True):
    """One deployable form of the denoiser. `multiplying` are its operations that multiply, in order."""

    precision: str
    target: str
    plan: str | None
    groups: tuple[float, ...]
    graph: GraphContents
    shares: tuple[Share, ...]
    multiplying: tuple[Operation, ...]
    types: tuple[str, ...]  # of the operations of `multiplying`
    stages: tuple[StageContents, ...] = ()


class PlanContents(Struct, frozen=True):
    """What a stored plan costs."""

    file: str
    steps: int
    evaluations: int  # of the denoiser, a guided step counts two
    rows: int
    guidance: str | None  # the weight, or the form with its numbers
    is_stochastic: bool


class RangesContents(Struct, frozen=True):
    """The ranges table: along which plan, by which method, of how many tensors, in how many lambda groups."""

    file: str
    plan: str
    method: str
    tensors: int
    groups: int


class Contents(Struct, frozen=True):
    """A bundle. Sizes in bytes."""

    path: str
    name: str
    bytes: int
    x_shape: tuple[int, ...]
    prediction: str
    schedule: ScheduleSpec
    conditions: tuple[Condition, ...]
    prologue: GraphContents | None
    bodies: dict[str, BodyContents]
    plans: dict[str, PlanContents]
    ranges: RangesContents | None
    engines: tuple[Engine, ...]
    files: dict[str, int]
    report: str | None
    provenance: Provenance


def inspect(options: InspectOptions) -> Contents:
    """Read a bundle. Every graph is read and, where onnxruntime runs it, opened once."""
    bundle = open_bundle(options.bundle)
    manifest = bundle.manifest
    base = manifest.bodies.get("float32")  # a packed bundle may have left it out
    prepared = None if base is None else io.load(bundle.graph(base.graph), root=bundle.path)
    files = {name: bundle.file(name).stat().st_size for name in manifest.files}
    return Contents(
        path=str(options.bundle),
        name=manifest.name,
        bytes=sum(files.values()) + (bundle.path / MANIFEST).stat().st_size,
        x_shape=manifest.x_shape,
        prediction=manifest.prediction,
        schedule=manifest.schedule,
        conditions=manifest.conditions,
        prologue=None if manifest.prologue is None else _graph(bundle, manifest.prologue, runs_here=True)[0],
        bodies={name: _body(bundle, name, body, prepared) for name, body in manifest.bodies.items()},
        plans={name: _plan(bundle, file) for name, file in manifest.plans.items()},
        ranges=_ranges(bundle),
        engines=manifest.engines,
        files=files,
        report=manifest.report,
        provenance=manifest.provenance,
    )


def _graph(bundle: Bundle, graph: GraphFile, runs_here: bool) -> tuple[GraphContents, Graph]:
    read = io.load(bundle.graph(graph), root=bundle.path)
    counted = Counter(node.op_type for node in optimized(read)) if runs_here else None
    contents = GraphContents(
        file=graph.file,
        bytes=sum((bundle.path / name).stat().st_size for name in (graph.file, *graph.data)),
        inputs=graph.inputs,
        outputs=graph.outputs,
        operations=dict(Counter(read.ops()).most_common()),
        optimized=None if counted is None else dict(counted.most_common()),
    )
    return contents, read


def _body(bundle: Bundle, name: str, body: Body, prepared: Graph | None) -> BodyContents:
    contents, lowered = _graph(bundle, body.graph, body.target in RUN_HERE)
    runs_here = body.target in RUN_HERE
    stages = tuple(
        StageContents(stage.until, _graph(bundle, stage.graph, runs_here)[0], stage.coverage) for stage in body.stages
    )
    if prepared is None:
        return _packed_body(body, contents, stages)
    work = macs(prepared)
    outputs = [node.output for node in prepared.nodes if node.output in work]
    none = Coverage(int8_macs=0, total_macs=sum(work.values()), int8_ops=(), float_ops=tuple(outputs))
    made = operations(prepared, name, body.coverage or none).operations
    is_half = any(array.dtype == np.float16 for array in lowered.constants.values())  # a graph has one float type
    types = tuple("int8" if op.precision == "int8" else "float16" if is_half else "float32" for op in made)
    return BodyContents(
        precision=body.precision,
        target=body.target,
        plan=body.plan,
        groups=body.groups,
        graph=contents,
        shares=tuple(_shares(made, types, has_reasons=body.coverage is not None)),
        multiplying=made,
        types=types,
        stages=stages,
    )


def _packed_body(body: Body, contents: GraphContents, stages: tuple[StageContents, ...]) -> BodyContents:
    """A body whose float form is not there to be compared with: what calibration counted."""
    counted = body.coverage or Coverage(int8_macs=0, total_macs=0, int8_ops=(), float_ops=())
    in_float = counted.total_macs - counted.int8_macs
    shares = (
        Share("int8", len(counted.int8_ops), counted.int8_macs, {}),
        Share("float", len(counted.float_ops), in_float, {}),
    )
    return BodyContents(body.precision, body.target, body.plan, body.groups, contents, shares, (), (), stages)


def _shares(made: Iterable[Operation], types: Iterable[str], has_reasons: bool) -> Iterator[Share]:
    """Operations by type, int8 first."""
    by_type: dict[str, list[Operation]] = {}
    for operation, kind in zip(made, types, strict=True):
        by_type.setdefault(kind, []).append(operation)
    for kind, own in sorted(by_type.items(), key=lambda item: item[0] != "int8"):
        reasons = Counter(operation.reason for operation in own if operation.reason and has_reasons)
        yield Share(kind, len(own), sum(operation.macs for operation in own), dict(reasons.most_common()))


def _plan(bundle: Bundle, file: str) -> PlanContents:
    plan = decode(bundle.read(file), file)
    return PlanContents(
        file=file,
        steps=len(plan.steps),
        evaluations=sum(len(step.branches) for step in plan.steps),
        rows=plan.rows,
        guidance=None if plan.guidance is None else describe(plan.guidance),
        is_stochastic=any(step.draws for step in plan.steps),
    )


def _ranges(bundle: Bundle) -> RangesContents | None:
    file = bundle.manifest.ranges
    if file is None:
        return None
    found = table.load(bundle.file(file))
    return RangesContents(file, found.plan, found.method, len(found.tensors), len(found.groups) + 1)
