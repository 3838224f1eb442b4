"""The results of a calibration, added to a bundle: int8 bodies, ranges, the plan, and precision maps."""

import logging
import re
from collections.abc import Collection, Mapping
from dataclasses import dataclass

import msgspec

from fewstep.calibration.calibrated_body import AnyBody
from fewstep.calibration.calibration_settings import describe_kept_differences
from fewstep.calibration.checkpoint import Checkpoint
from fewstep.calibration.lowering.quantize import LoweredBody
from fewstep.calibration.lowering.targets import load_target
from fewstep.calibration.precision.precision_map import PrecisionMap, decode_maps, encode_maps
from fewstep.calibration.precision.precision_search import SearchResult, make_precision_map
from fewstep.calibration.precision.recipe import Recipe
from fewstep.calibration.precision.stored_weights import WeightRecipe
from fewstep.calibration.ranges.table import RangesTable
from fewstep.calibration.task import Task
from fewstep.graph.files import io, weights
from fewstep.graph.files.commit import Writer
from fewstep.graph.graph import GROUP, Graph
from fewstep.plans.any_plan import AnyPlan
from fewstep.plans.errors import UserError
from fewstep.plans.file import encode
from fewstep.runtime.bundle.manifest import Body, Manifest, ReplacedGraph, StepGraph, TensorEntry
from fewstep.runtime.bundle.networks import replace_network, select_network, shared_graphs
from fewstep.runtime.bundle.platforms import is_core, target_of
from fewstep.runtime.bundle.reading import Bundle

LOG = logging.getLogger("fewstep")


@dataclass(frozen=True)
class CalibratedNetwork:
    """The int8 bodies of one network. Their files are already written; committing the manifest adds them to the bundle.

    plan: the task's plan, whose steps are assigned to range groups.
    table: the ranges that the bundle stores for the network; None to keep those that it has.
    bodies: manifest entries by name.
    lowered: the int8 graph of each body, by body name; if a body has several, the graph of its least noisy steps.
    searches: precision searches of the bodies that a bound selected.
    failed: errors of the bodies that were not made.
    checkpoint: the checkpoint of the counts, obsolete once the bundle is committed.
    """

    plan: AnyPlan
    table: RangesTable | None
    bodies: Mapping[str, Body]
    lowered: Mapping[str, LoweredBody]
    searches: Mapping[str, SearchResult]
    failed: Mapping[str, UserError]
    checkpoint: Checkpoint


def add_bodies(writer: Writer, full: Manifest, task: Task, network: CalibratedNetwork) -> Manifest:
    """Return the `full` manifest with the bodies of the task's network, their ranges, the plan and precision maps. The
    caller commits it.

    Engines, the report and the results of an evaluation are removed if they belong to bodies that change. A warning
    names the engines and the report.
    """
    bundle, manifest = task.sampler.bundle, select_network(full, task.network)
    plan, bodies = network.plan, network.bodies
    command = task.command([body.target for body in bodies.values()])
    ranges = manifest.ranges if network.table is None else _add_ranges(writer, network.table)
    maps = _add_precision_maps(writer, task, network, {*manifest.bodies} - {*bodies})
    _warn_of_other_bodies(bundle, bodies, plan, command)
    plan_file = writer.add(encode(plan), "plans", re.sub(r"[^\w.-]+", "-", plan.name), ".json")
    before = (each for each in manifest.provenance.commands if each != command)  # only the latest of repeated commands
    provenance = msgspec.structs.replace(manifest.provenance, commands=(*before, command))
    changed = {name for name, body in bodies.items() if manifest.bodies.get(name) != body}
    # an engine may be of one of several graphs, "int8-tensorrt/1"
    engines = tuple(engine for engine in manifest.engines if engine.body.partition("/")[0] not in changed)
    is_stale = manifest.report is not None and bool(changed)  # the report
    if len(engines) < len(manifest.engines) or is_stale:
        gone = [engine.file for engine in manifest.engines if engine not in engines] + ["the report"] * is_stale
        LOG.warning("removed, because they belong to the previous bodies: %s", ", ".join(gone))
    changed_manifest = msgspec.structs.replace(
        manifest,
        bodies={**manifest.bodies, **bodies},
        plans={**manifest.plans, plan.name: plan_file},
        precision=maps,
        ranges=ranges,
        engines=engines,
        provenance=provenance,
        report=None if is_stale else manifest.report,
        results=None if is_stale else manifest.results,
        evaluation=None if changed else manifest.evaluation,
    )
    return replace_network(full, task.network, changed_manifest)


def _warn_of_other_bodies(bundle: Bundle, new: Mapping[str, Body], plan: AnyPlan, command: str) -> None:
    """Log a warning that names the bodies that stay in the bundle but were calibrated with other settings. If the plan
    of such a body is damaged, the warning says so."""
    try:
        for clause in describe_kept_differences(bundle, new, plan, command):
            LOG.warning(
                "bodies of other targets are kept, %s; calibrate all targets in one run to compare them", clause
            )
    except UserError as error:
        LOG.warning("bodies of other targets are kept, but their calibration settings cannot be read: %s", error.what)


def _add_precision_maps(writer: Writer, task: Task, network: CalibratedNetwork, kept: Collection[str]) -> str | None:
    """Write the precision maps of the bodies `kept` and of a network's searches. Return the name of the file, or None
    if there are none."""
    maps = [precision_map for precision_map in _read_precision_maps(task.sampler.bundle) if precision_map.body in kept]
    maps += [
        make_precision_map(name, network.plan.name, task.bound, search)
        for name, search in network.searches.items()
        if task.bound
    ]
    return writer.add(encode_maps(tuple(maps)), "precision", "precision", ".json") if maps else None


def _read_precision_maps(bundle: Bundle) -> tuple[PrecisionMap, ...]:
    """Return the precision maps of earlier searches. If the file cannot be read, warn and return none."""
    file = bundle.manifest.precision
    try:
        return () if file is None else decode_maps(bundle.read(file), file)
    except UserError as error:
        LOG.warning("the bundle's previous precision maps are lost: %s", error.what)
        return ()


def store_body(writer: Writer, name: str, body: AnyBody, task: Task, plan: AnyPlan) -> Body:
    """Write the graphs and the ranges of a body to files, and return its manifest entry. A graph has the inputs of the
    float body, and the input "group" if its scales differ between range groups."""
    base, parts, table = task.sampler.body.graph, body.recipe.graphs, body.recipe.table
    edges = table.groups if table is not None and len(parts) > 1 else ()
    groups = next((lowered.groups for _, lowered in parts if lowered.groups), edges)
    least = 0 if base.data else None  # bytes from which weights go to a file; 0 if float32 has files: graphs share them
    graphs = []
    for number, (until, lowered) in enumerate(parts):
        file = name if len(parts) == 1 else f"{name}-{number}"
        graph, data = io.store(writer, lowered.graph, file, external_above=least, others=base.data)
        group = (TensorEntry(GROUP, "group", (1,), "int64"),) if lowered.groups else ()
        coverage = None if table is None else lowered.coverage  # of int8 arithmetic
        end = groups[until - 1] if number < len(parts) - 1 else None
        graphs.append(StepGraph(graph, base.inputs + group, base.outputs, data, coverage=coverage, until=end))
    ranges = None if table is None else _add_ranges(writer, table)
    target = target_of(name)
    platform = None if is_core(target) else load_target(target).platform
    precision = body.recipe.target.platform.precision
    replaces = _store_replaced(writer, name, body.recipe, task.sampler.bundle.manifest)
    reasons = dict(body.reasons)
    return Body(tuple(graphs), precision, target, groups, plan.name, (body.trial,), ranges, platform, replaces, reasons)


def _store_replaced(
    writer: Writer, name: str, recipe: Recipe | WeightRecipe, manifest: Manifest
) -> dict[str, ReplacedGraph]:
    """Write the graphs that a body runs instead of shared ones, and return their manifest entries."""
    entries, shared = dict[str, ReplacedGraph](), shared_graphs(manifest)
    for which, (graph, coverage) in recipe.replaces.items():
        base = shared[which]
        least = 0 if base.data else None
        file, data = io.store(writer, graph, f"{name}-{which.replace(' ', '-')}", least, base.data)
        entries[which] = ReplacedGraph(file, base.inputs, base.outputs, data, coverage=coverage)
    return entries


def _add_ranges(writer: Writer, table: RangesTable) -> str:
    return writer.add(table.encode(), "ranges", "ranges", ".safetensors")


def map_weights_from_files(writer: Writer, name: str, graph: Graph) -> Graph:
    """Move the weights of an int8 graph to files of the bundle. Return the graph with its weights mapped from these
    files, so that only used pages are in memory.

    The file of the graph itself is written too, so that the next graph finds the weights that both share.
    """
    (mapped,) = io.store_weights(writer, graph)
    io.store(writer, mapped, name)
    weights.release(mapped)
    return mapped
