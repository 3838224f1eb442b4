"""The inputs on which engines are compared."""

from typing import Any

from fewstep.runtime.backends import LoadedGraph
from fewstep.runtime.backends.batch_splitting import BatchSplitter
from fewstep.runtime.backends.openvino_agreement import random_feeds
from fewstep.runtime.backends.tensorrt_engine import BATCH, LoadedEngine
from fewstep.runtime.bundle.manifest import GraphEntry
from fewstep.runtime.bundle.reading import Bundle
from fewstep.runtime.kinds.sizes import default_sizes

ROWS = 2  # rows of a call, unless the engine prefers another number


def comparison_feeds(bundle: Bundle, entry: GraphEntry, network: LoadedGraph, seed: int) -> dict[str, Any]:
    """Return random inputs for a graph, at sizes that the engine accepts. They are for the first range group if the
    seed is 0, otherwise for the last."""
    engine = network.network if isinstance(network, BatchSplitter) else network
    rows = engine.tensors.preferred_sizes[BATCH] if isinstance(engine, LoadedEngine) else ROWS
    sizes = {BATCH: rows, **default_sizes(bundle.manifest.x_shape, bundle.manifest.sizes)}
    feeds: dict[str, Any] = random_feeds(entry, sizes, seed)
    groups = {len(body.groups) for body in bundle.manifest.bodies.values() if entry in body.graphs}
    for tensor in entry.inputs:
        if tensor.role == "group":
            feeds[tensor.name][...] = max(groups, default=0) if seed else 0
    return feeds
