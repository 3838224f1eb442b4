"""The material of every tool: the prepared float graph, its inputs along the plan, and which operations are which.

A tool runs in an environment of its own (their pins exclude each other), so everything goes through one folder:

    float.onnx       each node named after the tensor it makes, then constant biases joined to their convolutions: one
                     that has a bias keeps the name of its product, and its node stays "the operation" of all counts
    feeds/*.npz      one evaluation each, [rows, ...] by input name, of the trajectories that ours is calibrated on
    operations.json  {"all": every operation, "outer": first and last layers,
                      "ours": {engine: those that ours for it runs in int8}}
"""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from hashlib import sha256
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np

from benchmarks.quantization.join_biases import join_bias
from fewstep.graph.files import io
from fewstep.graph.graph import Graph
from fewstep.graph.selection import STILL, explain_selection, outer_ops
from fewstep.measure.rollouts.conditions_file import ConditionRecords, digest_records
from fewstep.measure.rollouts.trajectories import roll_out
from fewstep.plans.file import encode
from fewstep.plans.plan import Plan
from fewstep.runtime.progress import SILENT, Progress
from fewstep.runtime.sampling.sampler import Sampler


@dataclass(frozen=True)
class Material:
    """The folder, and the prepared graph by which operations are counted; float.onnx is that graph with joined
    biases.
    """

    folder: Path
    graph: Graph


def write_material(
    sampler: Sampler,
    plan: Plan,
    seeds: range,
    work: Path,
    ours: Mapping[str, Sequence[str]],
    progress: Progress = SILENT,
    conditions: ConditionRecords | None = None,
) -> Material:
    """Fill a folder of `work` from the float32 body of a bundle, run along `plan` once per seed; kept if it is there.
    `ours` are the operations that ours runs in int8, by engine. `conditions` [len(seeds), *shape] belong to the seeds;
    where there are none they are drawn.

    The folder is named after all that it follows from, so that what tools make there is theirs of this very material.
    """
    graph = io.load(sampler.bundle.graph(sampler.body.graph), root=sampler.bundle.path)
    graph = graph.with_nodes(replace(node, name=node.output) for node in graph.nodes)
    joined = join_bias(graph)
    operations = json.dumps(chosen_operations(graph, [node.name for node in joined.nodes], ours))
    work.mkdir(parents=True, exist_ok=True)
    with TemporaryDirectory(dir=work) as temporary:
        written = io.save(joined, Path(temporary) / "float.onnx")
        given: tuple[object, ...] = (*map(io.sha256, written), operations, *_sources(sampler), encode(plan), seeds)
        given += () if conditions is None else (digest_records(conditions),)
        folder = work / sha256(repr(given).encode()).hexdigest()[:12]
        complete = folder / "operations.json"
        if complete.exists():
            return Material(folder, graph)
        (folder / "feeds").mkdir(parents=True, exist_ok=True)
        for path in written:
            path.replace(folder / path.name)
    for number, evaluation in enumerate(roll_out(sampler, plan, seeds, progress, conditions=conditions)):
        np.savez(folder / "feeds" / f"{number:05}.npz", **evaluation.feeds)  # type: ignore[arg-type]
    partial = complete.with_suffix(".partial")
    partial.write_text(operations)
    partial.replace(complete)
    return Material(folder, graph)


def chosen_operations(graph: Graph, names: Sequence[str], ours: Mapping[str, Sequence[str]]) -> dict[str, Any]:
    """The content of operations.json, by the names of the nodes; `names` are those of all that tools are given."""
    moving = [op.name for op, reason in explain_selection(graph) if reason != STILL]
    return {
        "all": list(names),
        "outer": sorted(outer_ops(graph, moving)),
        "ours": {engine: list(operations) for engine, operations in sorted(ours.items())},
    }


def _sources(sampler: Sampler) -> tuple[str, ...]:
    """Return the content of the graphs that compute the feeds."""
    manifest = sampler.bundle.manifest
    graphs = (sampler.body.graph, manifest.prologue)
    return tuple(manifest.files[graph.file] for graph in graphs if graph is not None)
