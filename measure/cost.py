"""The memory that sampling with a bundle's bodies takes, estimated before it begins."""

from collections.abc import Iterable

from fewstep.graph import io, weights
from fewstep.graph.graph import Graph
from fewstep.graph.resource_needs import Needs, memory_free
from fewstep.graph.types import infer_types
from fewstep.measure.sampling import FLOAT
from fewstep.plans.plan import Plan
from fewstep.runtime.bundle.networks import networks
from fewstep.runtime.bundle.reading import Bundle

BATCH = 16  # seeds at once: large enough to use the cores, small enough for the caches
MOST_ACTIVATIONS = 2 * 10**9  # bytes of a batch: larger ones win no time
PROCESS_BYTES = 200 * 10**6  # of the command and its inference engines, without a bundle
PER_WEIGHT = 1.25  # bytes for each byte of a body's weights: onnxruntime packs some of them, and has all mapped
PER_ACTIVATION = 2.5  # bytes for each that is live at once: convolutions are unfolded, and memory grows by doubling


def sampling_needs(
    bundle: Bundle,
    bodies: Iterable[str],
    plan: Plan,
    batch: int,
    written: tuple[int, ...],
    workers: int = 0,
    by_rows: bool = False,
) -> Needs:
    """The needs of sampling a batch with float32 and some bodies, open together.

    This process samples, or `workers` processes do, and this one keeps float32. `written` are bytes of the
    files that come out. With `by_rows` the bodies see one row at a time.
    """
    activations = row_bytes(bundle) * (1 if by_rows else batch * max_branches(plan))
    return Needs(round(_total_memory(bundle, bodies, activations, workers)), sum(written), len(written))


def needs_row_by_row(bundle: Bundle, bodies: Iterable[str], plan: Plan, workers: int = 0) -> bool:
    """True where bodies that are judged see the samples of a batch one by one: its activations are large, or the memory
    that is free here is short. The batch itself stays as it is, and figures add up in the same order."""
    activations, free = row_bytes(bundle) * BATCH * max_branches(plan), memory_free(bundle.path)
    is_short = free is not None and _total_memory(bundle, bodies, activations, workers) > free
    return activations > MOST_ACTIVATIONS or is_short


def _total_memory(bundle: Bundle, bodies: Iterable[str], activations: float, workers: int) -> float:
    """Bytes of all processes: each has float32, and those that sample have the other bodies too."""
    exact = PER_WEIGHT * body_bytes(bundle, FLOAT)
    others = PER_WEIGHT * sum(body_bytes(bundle, name) for name in bodies if name != FLOAT)
    process = exact + others + activations + PROCESS_BYTES
    return process if not workers else exact + activations + PROCESS_BYTES + workers * process


def max_branches(plan: Plan) -> int:
    """The most that a step has: rows for each sample."""
    return max(len(step.branches) for step in plan.steps)


def row_bytes(bundle: Bundle) -> float:
    """The memory that float32's activations of one row take at once."""
    return PER_ACTIVATION * max(
        peak_activation_bytes(io.load(bundle.graph(bundle.select_network(name).body(FLOAT).graph), root=bundle.path))
        for name in networks(bundle.manifest)
    )


def peak_activation_bytes(graph: Graph) -> int:
    """The most bytes of activations that one row of a batch has at once: the inputs, and what is made, until its last
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
    """Bytes of the graphs of a body in all networks, and of the weights that they read from files, each once.

    Bodies share such files: int8 reads the little that stays float from float32's.
    """
    graphs = [graph for each in networks(bundle.manifest) for graph in bundle.select_network(each).body(name).graphs]
    read = {
        weights.place_of(array): array.nbytes
        for graph in graphs
        if graph.data
        for array in weights.large_constants(io.load(bundle.graph(graph), root=bundle.path)).values()
    }
    files = sum((bundle.path / file).stat().st_size for file in {graph.file for graph in graphs})
    return files + sum(size for place, size in read.items() if place is not None)
