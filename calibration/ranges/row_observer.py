"""An observed network with large activations: each row is measured before the next row is evaluated.

The observed activations of one row take 1.7 GB in the U-Net of Stable Diffusion 1.5. If they were held for every row,
and for the previous evaluation too, they would be larger than the network. Histograms merge exactly, so the counts are
bitwise identical.
"""

from collections import deque
from collections.abc import Iterable
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from fewstep.calibration.ranges.histogram import Histogram, merge_histograms
from fewstep.calibration.ranges.observe import Counts, Fault, Measured, measure_tensor, open_observed
from fewstep.graph.files import io
from fewstep.graph.graph import Graph
from fewstep.graph.types import infer_types
from fewstep.measure.rollouts.row_by_row import run_row_by_row
from fewstep.runtime.backends import Arrays, LoadedGraph

LARGE = 2**28  # bytes of a row's activations; smaller ones are counted while the next evaluation runs
BESIDE_LARGE = 2**26  # the same if weights are external: several rows at once are as large as the weights


@dataclass
class RowObserver:
    """A network that returns only its graph's outputs, and keeps the histograms of the tensors in `counts`. Not
    thread-safe."""

    network: LoadedGraph  # as `open_observed` opens it
    graph: Graph
    counts: Counts
    _untaken: deque[dict[str, Histogram | Fault]] = field(default_factory=deque, init=False)

    def __call__(self, feeds: Arrays) -> dict[str, NDArray[np.float32]]:
        seen = {name: self._measure(name, feeds[name]) for name in self._inputs_to_observe(feeds)}
        self._untaken.append({name: each for name, each in seen.items() if each is not None})
        return run_row_by_row(self._run_row, self.graph.inputs)(feeds)

    def take_histograms(self) -> Measured:
        """Return the histograms of the earliest evaluation that were not taken yet, by tensor."""
        return self._untaken.popleft()

    def _run_row(self, feeds: Arrays) -> dict[str, NDArray[np.float32]]:
        held = self.network(feeds)
        returned = {value.name: held[value.name] for value in self.graph.outputs}
        fed, histograms = self._inputs_to_observe(feeds), self._untaken[-1]
        for name in (tensor for tensor in self.counts.tensors if tensor not in fed):
            before, seen = histograms.get(name), self._measure(name, held.pop(name))
            if isinstance(before, Histogram) and isinstance(seen, Histogram):
                seen = merge_histograms(before, seen)
            elif before is not None:
                seen = before if seen is None or isinstance(before, Fault) else seen  # keep the first fault
            if seen is not None:
                histograms[name] = seen
        return returned

    def _inputs_to_observe(self, feeds: Arrays) -> set[str]:
        """Return the names of the counted tensors that are inputs of the graph."""
        return feeds.keys() & set(self.counts.tensors)

    def _measure(self, name: str, values: NDArray[np.float32]) -> Histogram | Fault | None:
        return measure_tensor(values, self.counts.axes.get(name))


def open_counted(graph: Graph, counts: Counts, threads: int = 0) -> LoadedGraph:
    """Open the float network and expose the tensors of `counts`. Return a `RowObserver` if they are large."""
    network = open_observed(graph, counts.tensors, threads)
    return RowObserver(network, graph, counts) if are_large(graph, counts.tensors) else network


def are_large(graph: Graph, tensors: Iterable[str]) -> bool:
    """Return whether one row of `tensors` exceeds the memory limit. Such rows are measured one at a time, and each
    evaluation has one trajectory, since a histogram cannot be split by seed."""
    return row_bytes(graph, tensors) > (BESIDE_LARGE if io.exceeds_one_file(graph) else LARGE)


def row_bytes(graph: Graph, tensors: Iterable[str]) -> int:
    """Return the size in bytes of one row of all `tensors`. A tensor of unknown size is not counted."""
    types = infer_types(graph)
    return sum(types.sample_bytes(name) or 0 for name in tensors)
