"""Graphs of the forms that race, lowered from what a bundle was calibrated with."""

from collections.abc import Mapping
from pathlib import Path

from fewstep.graph import io
from fewstep.graph.graph import Graph
from fewstep.lowering.scheme import Target
from fewstep.plans.errors import UserError
from fewstep.ranges.table import RangesTable, load
from fewstep.runtime.bundle.reading import Bundle


def calibrated(bundle: Bundle, target: Target) -> tuple[Graph, RangesTable]:
    """The prepared graph and the ranges. UserError without ranges."""
    if bundle.manifest.ranges is None:
        raise UserError(f"{bundle.path} is not calibrated", f"run fewstep calibrate BUNDLE --target {target.name}")
    prepared = io.load(bundle.graph(bundle.body("float32").graph), root=bundle.path)
    return prepared, load(bundle.file(bundle.manifest.ranges))


def written(graphs: Mapping[str, Graph], folder: Path) -> dict[str, Path]:
    """The graph of each form, in a file."""
    paths = {name: folder / f"{place}.onnx" for place, name in enumerate(graphs)}
    for name, graph in graphs.items():
        io.save(graph, paths[name])
    return paths
