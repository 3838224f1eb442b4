"""Estimate the memory that sampling with a bundle's bodies needs, before it starts."""

from collections.abc import Iterable

from fewstep.graph.files import io, weights
from fewstep.graph.graph import Graph
from fewstep.graph.resource_needs import Needs, memory_free
from fewstep.graph.types import infer_types
from fewstep.measure.sampling import FLOAT
from fewstep.plans.plan import Plan
from fewstep.runtime.bundle.manifest import GraphEntry
from fewstep.runtime.bundle.networks import networks, shared_graphs
from fewstep.runtime.bundle.reading import Bundle
from fewstep.runtime.kinds.companions import ENCODER

BATCH = 16  # seeds per batch: enough to use the cores, few enough for the caches
MOST_ACTIVATIONS = 2 * 10**9  # bytes of a batch; larger batches save no time
PROCESS_BYTES = 200 * 10**6  # bytes of the command and its inference engines, without a bundle
PER_WEIGHT = 1.25  # bytes per byte of a body's weights: onnxruntime packs some of them, and maps all
PER_ACTIVATION = 2.5  # bytes per live byte: convolutions are unfolded, and allocations grow by doubling


def sampling_needs(
    bundle: Bundle,
    bodies: Iterable[str],
    plan: Plan,
    batch: int,
    written: tuple[int, ...],
    workers: int = 0,
    by_rows: bool = False,
) -> Needs:
    """Estimate the memory and disk space needed to sample a batch with float32 and some bodies, all open at once.

    If `workers` is 0, this process samples. Otherwise that many processes sample, and this one only opens float32.
    `written` are the bytes of the output files. With `by_rows` the bodies run one row of the batch at a time.
    """
    activations = row_bytes(bundle) * (1 if by_rows else batch * max_branches(plan))
    return Needs(round(_total_memory(bundle, bodies, activations, workers)), sum(written), len(written))


def needs_row_by_row(bundle: Bundle, bodies: Iterable[str], plan: Plan, workers: int = 0) -> bool:
    """Return whether bodies should run one sample at a time while they are compared: because the activations of a batch
    are large, or free memory is short. The batches themselves do not change, so measurements are summed in the same
    order."""
    activations, free = row_bytes(bundle) * BATCH * max_branches(plan), memory_free(bundle.path)
    is_short = free is not None and _total_memory(bundle, bodies, activations, workers) > free
    return activations > MOST_ACTIVATIONS or is_short


def _total_memory(bundle: Bundle, bodies: Iterable[str], activations: float, workers: int) -> float:
    """Return the total memory in bytes of all processes. Each has the float32 body; those that sample also have the
    other bodies."""
    exact = PER_WEIGHT * body_bytes(bundle, FLOAT)
    others = PER_WEIGHT * sum(body_bytes(bundle, name) for name in bodies if name != FLOAT)
    process = exact + others + activations + PROCESS_BYTES
    return process if not workers else exact + activations + PROCESS_BYTES + workers * process


def max_branches(plan: Plan) -> int:
    """Return the maximum number of branches of a step, i.e. of rows for each sample."""
    return max(len(step.branches) for step in plan.steps)


def row_bytes(bundle: Bundle) -> float:
    """Return the peak memory of float32's activations for one row."""
    return PER_ACTIVATION * max(
        peak_activation_bytes(io.load(bundle.graph(bundle.select_network(name).body(FLOAT).graph), root=bundle.path))
        for name in networks(bundle.manifest)
    )


def peak_activation_bytes(graph: Graph) -> int:
    """Return the peak bytes of activations for one row of a batch: the inputs, and each node's outputs until their last
    reader has run."""
    types, last = infer_types(graph), dict[str, int]()
    for number, node in enumerate(graph.nodes):
        last.update(dict.fromkeys(node.inputs, number))
    last.update(dict.fromkeys((value.name for value in graph.outputs), len(graph.nodes)))
    held, most = dict[str, int](), 0
    input_bytes = sum(types.sample_bytes(value.name) or 0 for value in graph.inputs)
    for number, node in enumerate(graph.nodes):
        held.update((name, types.sample_bytes(name) or 0) for name in node.outputs if name in last)
        most = max(most, sum(held.values()))
        for name in set(node.inputs) & held.keys():
            if last[name] == number:
                del held[name]
    return input_bytes + most


def body_bytes(bundle: Bundle, name: str) -> int:
    """Return the bytes of a body's graphs in all networks, which run at steps, and of the weights that they read."""
    parts = map(bundle.select_network, networks(bundle.manifest))
    return _graph_bytes(bundle, [graph for part in parts for graph in part.body(name).graphs])


def call_bytes(bundle: Bundle, name: str) -> int:
    """Return the bytes of all graphs of a call with a body: those of `body_bytes`, conditioners and prologues, text
    encoder and decoder, and of the weights that they read. Graphs that the body replaces do not count, nor does the
    encoder of images, which samples from noise do not need."""
    graphs = list[GraphEntry]()
    for part in map(bundle.select_network, networks(bundle.manifest)):
        shared = shared_graphs(part.with_graphs_of(name).manifest)
        graphs += [*part.body(name).graphs, *(graph for key, graph in shared.items() if key != ENCODER)]
    return _graph_bytes(bundle, graphs)


def _graph_bytes(bundle: Bundle, graphs: Iterable[GraphEntry]) -> int:
    """Return the bytes of graphs and of the weights that they read, each counted once. Several graphs may read one
    weight file: an int8 body reads the few weights that stay float from float32's files."""
    graphs = list(graphs)
    read = {
        weights.place_of(array): array.nbytes
        for graph in graphs
        if graph.data
        for array in weights.large_constants(io.load(bundle.graph(graph), root=bundle.path)).values()
    }
    files = sum((bundle.path / file).stat().st_size for file in {graph.file for graph in graphs})
    return files + sum(size for place, size in read.items() if place is not None)
