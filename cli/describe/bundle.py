"""The contents of a bundle as a tree."""

from collections.abc import Iterable, Mapping

from rich.filesize import decimal
from rich.markup import escape
from rich.tree import Tree

from fewstep.cli.describe.trials import describe_trials
from fewstep.graph.engines.engine_costs import cost_lines
from fewstep.plans.errors import quote_path
from fewstep.plans.plan import DENOISER
from fewstep.plans.spec import PURE_NOISE
from fewstep.report.bundle_contents import Contents, NetworkContents
from fewstep.report.call_time import describe_call, valid_calls
from fewstep.report.float_body import describe_shared_graphs, float_reason
from fewstep.report.graph_contents import BodyContents, GraphContents, Share
from fewstep.runtime.bundle.engine_key import ANY_DEVICE
from fewstep.runtime.bundle.manifest import Body, Condition, EngineEntry, Manifest, NetworkEntry, TensorEntry
from fewstep.runtime.bundle.networks import interval_ends
from fewstep.runtime.kinds.kind import kinds
from fewstep.runtime.kinds.sizes import free_shape

OPERATIONS_SHOWN = 6  # kinds of nodes named in a line


def build_tree(contents: Contents, lists_operations: bool) -> Tree:
    """Return the contents of a bundle as a tree, one line per item."""
    manifest = contents.manifest
    root = Tree(escape(f"{contents.path}: {manifest.name}, {decimal(contents.bytes)}"), highlight=False)
    root.add(escape(_describe_x(manifest)))
    for _, kind in kinds(manifest):
        if said := kind.describe(manifest):
            root.add(escape(said))
    if contents.scheduler is not None:
        root.add(escape(f"scheduler: {contents.scheduler}{_describe_scheduler_plans(contents)}"))
    for condition in manifest.conditions:
        root.add(escape(f"condition {_describe_condition(condition)}"))
    _add_setup_graphs(root, contents)
    for name, graph in contents.companions.items():
        branch = root.add(escape(f"{name}: {_describe_graph(graph)}"))
        branch.add(escape(f"{_describe_ports(graph.inputs)} to {_describe_ports(graph.outputs)}"))
        _add_graph(branch, graph)
    if contents.verified:
        verified = root.add("verified against its source")
        for stage in contents.verified:
            at = f"time {stage.time:g}, batch {stage.batch}{stage.edge and ', '}{stage.edge}"
            verified.add(
                escape(
                    f"{stage.stage}: largest relative difference {stage.relative:.1g} of {stage.points} points ({at})"
                )
            )
    _add_bodies(root, manifest, manifest.bodies, contents, lists_operations)
    _add_networks(root, contents, lists_operations)
    for plan in contents.plans.values():
        root.add(escape(f"plan {plan}"))
    for fitted in contents.fitted:
        gain = (
            f"{fitted.psnr:.1f} dB PSNR against the teacher {fitted.teacher}, "
            f"where {fitted.nominal} has {fitted.nominal_psnr:.1f} dB"
        )
        gain += "" if fitted.judged is None else f"; it {fitted.judged.text}"
        of = f"fitted:{fitted.evaluations} for {fitted.body}, guidance {fitted.guidance}"
        root.add(escape(f"plan {of}: {gain}"))
    for ranges in contents.ranges:
        groups = f"{ranges.groups} groups of steps" if ranges.groups > 1 else "one group for all steps"
        how = f"along {ranges.plan}, {ranges.method}, {groups}"
        root.add(escape(f"ranges of {ranges.tensors} tensors {how}: {', '.join(ranges.bodies)}"))
    costs = cost_lines(manifest.engines, contents.engines)
    for engine in manifest.engines:
        size = decimal(contents.files.get(engine.file, 0))
        branch = root.add(escape(_describe_engine(engine, size)))
        for line in costs.get(engine.file, ()):
            branch.add(escape(line))
    for said in contents.unreadable.values():
        root.add(escape(said))
    root.add(escape(f"report: {manifest.report or 'none; ' + _report_commands(contents)}"))
    made = root.add(escape(f"from {manifest.provenance.source} {manifest.provenance.source_sha256[:12]}"))
    made.add(escape(f"licence: {manifest.provenance.licence or 'not named by the source'}"))
    for command in manifest.provenance.commands:
        made.add(escape(command))
    made.add(escape(", ".join(f"{name} {version}" for name, version in manifest.provenance.versions.items())))
    return root


def _add_networks(root: Tree, contents: Contents, lists_operations: bool) -> None:
    """Add the networks besides the denoiser, after a line on the denoiser if there are experts."""
    manifest = contents.manifest
    if interval_ends(manifest):
        root.add(f"network {manifest.component or DENOISER}, the denoiser, for the other steps: the bodies above")
    for name, network in contents.networks.items():
        entry = manifest.networks[name]
        said = f"network {name}, {_describe_steps(entry)}: predicts {entry.prediction}, from {entry.source}"
        branch = root.add(escape(said))
        if entry.lora_slots is not None:
            branch.add(escape(entry.lora_slots.describe(manifest)))
        _add_setup_graphs(branch, network)
        _add_bodies(branch, manifest, entry.bodies, network, lists_operations)


def _describe_x(manifest: Manifest) -> str:
    """Return the line on the samples: the shape of x, the prediction and the schedule."""
    also = " with its last x0 after it" if manifest.self_condition else ""
    return f"x {list(manifest.x_shape)}{also}, predicts {manifest.prediction}, schedule {manifest.schedule.kind}"


def _describe_steps(network: NetworkEntry) -> str:
    """Return, as text, which steps a network runs."""
    if network.until is None:
        return "for light steps"
    return f"for steps {'at pure noise' if network.until == PURE_NOISE else f'with lambda below {network.until:.4g}'}"


def _describe_scheduler_plans(contents: Contents) -> str:
    """Return the end of the line on the scheduler: the plans that it provides."""
    if not contents.scheduler_steps:
        return " of diffusers, for the plan scheduler:STEPS"
    return f", with recorded steps: {', '.join(f'scheduler:{steps}' for steps in contents.scheduler_steps)}"


def _describe_engine(engine: EngineEntry, size: str) -> str:
    """Return one line about an engine built for one device, or about a graph rewritten for one backend, which runs on
    any device."""
    name = "form for" if engine.device == ANY_DEVICE else f"engine for {engine.device},"
    return f"{name} {engine.backend}, of body {engine.body}: {size}"


def _add_setup_graphs(branch: Tree, contents: NetworkContents) -> None:
    for name, setup in (("conditioner", contents.conditioner), ("prologue", contents.prologue)):
        if setup is not None:
            _add_graph(branch.add(escape(f"{name}: {_describe_graph(setup)}")), setup)


def _add_bodies(
    branch: Tree, manifest: Manifest, entries: Mapping[str, Body], contents: NetworkContents, lists_operations: bool
) -> None:
    for name, body in contents.bodies.items():
        entry, added = entries[name], branch.add(escape(f"body {name}: {_describe_graph(body.graph)}"))
        _add_body(added, manifest, entry, body, lists_operations)
        for call in valid_calls(manifest):
            if call.body == name:
                added.add(escape(describe_call(call, entry)))


def _report_commands(contents: Contents) -> str:
    """Return the commands that make a report of a bundle."""
    if "float32" not in contents.bodies:
        return "bodies are judged against float32, which the bundle does not have"
    path = quote_path(contents.path)
    if not any(body.is_quantized for body in contents.manifest.bodies.values()):
        return f"fewstep calibrate {path}, then fewstep report {path}"
    return f"fewstep report {path}"


def _describe_condition(condition: Condition) -> str:
    shape = f" [{', '.join(map(str, free_shape(condition.shape, condition.follows)))}]" if condition.shape else ""
    labels = f": {', '.join(condition.labels)}" if condition.labels else ""
    guided = "" if condition.null is None else f" (unconditional: {condition.null:g})"
    if condition.null_file is not None:
        guided = f" (unconditional: {condition.null_file})"
    elif condition.shared:
        guided = " (the same in all guidance branches)"
    return f"{condition.name}, {condition.dtype}{shape}{labels}{guided}"


def _describe_ports(tensors: Iterable[TensorEntry]) -> str:
    return ", ".join(f"{tensor.name} {list(tensor.shape[1:])}" for tensor in tensors)


def _describe_graph(graph: GraphContents) -> str:
    return f"{graph.file}, {decimal(graph.bytes)}, {sum(graph.operations.values())} nodes"


def _add_graph(branch: Tree, graph: GraphContents) -> None:
    branch.add(escape(f"as stored: {_most_frequent(graph.operations)}"))
    if graph.optimized is not None:
        count = sum(graph.optimized.values())
        branch.add(escape(f"as onnxruntime runs it here: {count} nodes, {_most_frequent(graph.optimized)}"))
        if graph.fused:
            branch.add(escape(f"fused: {', '.join(f'{op} {count}' for op, count in graph.fused.items())}"))
        for reason, number in graph.separate.items():
            branch.add(escape(f"attention that CUDA computes in parts ({number}): {reason}"))
    if graph.engine is not None:
        branch.add(escape(f"parsed by: {graph.engine}"))


def _add_body(branch: Tree, manifest: Manifest, entry: Body, body: BodyContents, lists_operations: bool) -> None:
    reason = float_reason(manifest, entry)
    calibrated = f", calibrated along {entry.plan}" if entry.plan else ""
    groups = f", {len(entry.groups) + 1} groups of steps" if entry.groups else ""
    branch.add(escape(f"{entry.precision} for {entry.target}{calibrated}{groups}"))
    if entry.trials:
        tried = branch.add("quality on samples, measured by calibration")
        for line in describe_trials(entry.trials, reason, entry.precision):
            tried.add(escape(line))
    for line in describe_shared_graphs(manifest, entry):
        branch.add(escape(line))
    for name, graph in body.replaces.items():
        branch.add(escape(f"{name} of its own: {_describe_graph(graph)}"))
    if body.earlier:
        branch.add(f"this graph runs the steps with lambda {body.earlier[-1].until:.4g} and above")
    _add_graph(branch, body.graph)
    total = sum(share.macs for share in body.shares) or 1
    for share in body.shares:
        _add_share(branch, share, total)
    for earlier_body in body.earlier:
        percent = 100 * earlier_body.coverage.int8_macs / max(earlier_body.coverage.total_macs, 1)
        below = f"steps with lambda below {earlier_body.until:.4g}"
        said = f"{below}: {_describe_graph(earlier_body.graph)}, {percent:.1f} % of MACs in int8"
        _add_graph(branch.add(escape(said)), earlier_body.graph)
    if body.uncounted and (lists_operations or not body.shares):
        done = "listed" if body.shares else "counted"
        branch.add(escape(f"matrix products and convolutions are not {done}: {body.uncounted}"))
    elif lists_operations:
        listed = branch.add("matrix products and convolutions")
        for op in body.multiplying:
            why = f": {op.reason}" if op.reason else ""
            listed.add(escape(f"{op.name} ({op.kind}, {op.macs:,} MACs) {op.precision}{why}"))


def _add_share(branch: Tree, share: Share, total: int) -> None:
    line = branch.add(escape(f"{share.type}: {share.operations} operations, {100 * share.macs / total:.1f} % of MACs"))
    for reason, count in share.reasons.items():
        line.add(escape(f"{count}: {reason}"))


def _most_frequent(counts: Mapping[str, int]) -> str:
    """Return the counts of the most frequent operation types, and the number of other types, as text."""
    named = [f"{op} {count}" for op, count in list(counts.items())[:OPERATIONS_SHOWN]]
    more = len(counts) - OPERATIONS_SHOWN
    return ", ".join(named) + (f", {more} other kinds" if more > 0 else "")
