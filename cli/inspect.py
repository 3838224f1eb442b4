"""`fewstep inspect`: a bundle as a tree."""

from collections.abc import Mapping

from rich.filesize import decimal
from rich.markup import escape
from rich.tree import Tree

from fewstep.calibration.contents import BodyContents, Contents, GraphContents, InspectOptions, Share, inspect
from fewstep.cli.outcome import Outcome
from fewstep.runtime.manifest import Condition
from fewstep.runtime.progress import Progress

OPERATIONS_SHOWN = 6  # kinds of nodes named in a line


def verb(options: InspectOptions, progress: Progress) -> Outcome:
    contents = inspect(options)
    return Outcome(contents, (tree(contents, options.operations),))


def tree(contents: Contents, lists_operations: bool) -> Tree:
    """Everything of a bundle, a line a thing."""
    root = Tree(escape(f"{contents.path}: {contents.name}, {decimal(contents.bytes)}"), highlight=False)
    schedule = contents.schedule
    root.add(escape(f"x {list(contents.x_shape)}, predicts {contents.prediction}, schedule {schedule.kind}"))
    for condition in contents.conditions:
        root.add(escape(f"condition {_condition(condition)}"))
    if contents.prologue is not None:
        _add_graph(root.add(escape(f"prologue: {_stored(contents.prologue)}")), contents.prologue)
    for name, body in contents.bodies.items():
        _add_body(root.add(escape(f"body {name}: {_stored(body.graph)}")), body, lists_operations)
    for name, plan in contents.plans.items():
        guidance = "" if plan.guidance is None else f", guidance {plan.guidance}"
        noise = ", stochastic" if plan.is_stochastic else ""
        cost = f"{plan.steps} steps, {plan.evaluations} evaluations, {plan.rows} rows"
        root.add(escape(f"plan {name}: {cost}{guidance}{noise}"))
    if (ranges := contents.ranges) is not None:
        groups = f"{ranges.groups} lambda groups" if ranges.groups > 1 else "pooled"
        root.add(escape(f"ranges of {ranges.tensors} tensors along {ranges.plan}, {ranges.method}, {groups}"))
    for engine in contents.engines:
        size = decimal(contents.files[engine.file])
        root.add(escape(f"engine for {engine.device}, {engine.backend}, of body {engine.body}: {size}"))
    root.add(escape(f"report: {contents.report or 'none; fewstep report ' + contents.path}"))
    made = root.add(escape(f"from {contents.provenance.source} {contents.provenance.source_sha256[:12]}"))
    for command in contents.provenance.commands:
        made.add(escape(command))
    made.add(escape(", ".join(f"{name} {version}" for name, version in contents.provenance.versions.items())))
    return root


def _condition(condition: Condition) -> str:
    shape = f" {list(condition.shape)}" if condition.shape else ""
    labels = f": {', '.join(condition.labels)}" if condition.labels else ""
    guided = "" if condition.null is None else f" (none is {condition.null:g})"
    return f"{condition.name}, {condition.dtype}{shape}{labels}{guided}"


def _stored(graph: GraphContents) -> str:
    return f"{graph.file}, {decimal(graph.bytes)}, {sum(graph.operations.values())} nodes"


def _add_graph(branch: Tree, graph: GraphContents) -> None:
    branch.add(escape(f"as stored: {_most(graph.operations)}"))
    if graph.optimized is not None:
        count = sum(graph.optimized.values())
        branch.add(escape(f"as onnxruntime runs it here: {count} nodes, {_most(graph.optimized)}"))
        if graph.fused:
            branch.add(escape(f"fused: {', '.join(f'{op} {graph.optimized[op]}' for op in graph.fused)}"))


def _add_body(branch: Tree, body: BodyContents, lists_operations: bool) -> None:
    calibrated = f", calibrated along {body.plan}" if body.plan else ""
    groups = f", {len(body.groups) + 1} lambda groups" if body.groups else ""
    branch.add(escape(f"{body.precision} for {body.target}{calibrated}{groups}"))
    if body.stages:
        branch.add(f"its own graph runs the steps of groups from {body.stages[-1].until}")
    _add_graph(branch, body.graph)
    total = sum(share.macs for share in body.shares) or 1
    for share in body.shares:
        _add_share(branch, share, total)
    for stage in body.stages:
        percent = 100 * stage.coverage.int8_macs / max(stage.coverage.total_macs, 1)
        said = f"steps of groups below {stage.until}: {_stored(stage.graph)}, {percent:.1f} % of MACs in int8"
        _add_graph(branch.add(escape(said)), stage.graph)
    if lists_operations:
        listed = branch.add("operations that multiply")
        for operation, kind in zip(body.multiplying, body.types, strict=True):
            why = f": {operation.reason}" if operation.reason and body.precision == "int8" else ""
            listed.add(escape(f"{operation.name} ({operation.kind}, {operation.macs:,} MACs) {kind}{why}"))


def _add_share(branch: Tree, share: Share, total: int) -> None:
    line = branch.add(escape(f"{share.type}: {share.operations} operations, {100 * share.macs / total:.1f} % of MACs"))
    for reason, count in share.reasons.items():
        line.add(escape(f"{count}: {reason}"))


def _most(counts: Mapping[str, int]) -> str:
    """The most frequent operations; how many kinds more there are."""
    named = [f"{op} {count}" for op, count in list(counts.items())[:OPERATIONS_SHOWN]]
    more = len(counts) - OPERATIONS_SHOWN
    return ", ".join(named) + (f", {more} kinds more" if more > 0 else "")
