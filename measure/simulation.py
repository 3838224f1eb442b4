"""Simulation of other backends' rounding in onnxruntime, on a machine without the backend.

Q/DQ pairs are not fused. Tensors of type bfloat16 are rounded to it; the rest is computed in float32.
"""

from collections.abc import Mapping
from dataclasses import dataclass

from fewstep.graph.files import io
from fewstep.graph.files.stored_graphs import load_stored
from fewstep.graph.graph import Graph
from fewstep.graph.half_types import BFLOAT16
from fewstep.graph.passes.float32 import has_type
from fewstep.graph.passes.rounding import make_runnable
from fewstep.graph.session import GraphSession, open_session
from fewstep.runtime.backends import LoadedGraph, find_graph
from fewstep.runtime.backends.onnxruntime import OnnxRuntime
from fewstep.runtime.bundle.manifest import GraphEntry
from fewstep.runtime.bundle.reading import Bundle


def open_simulated(graph: Graph, threads: int = 0) -> GraphSession:
    """Open a graph on a machine without its backend, in order to compare its samples with float32. `threads` 0 means
    `default_threads`.

    The constants of a large graph are not folded, which would take as much memory as float32's weights. Its weights are
    not prepacked, which would take twice as much.
    """
    is_small = not io.exceeds_one_file(graph)
    return open_session(make_runnable(graph), optimize=is_small, arena=is_small, threads=threads, fuse_qdq=False)


@dataclass(frozen=True)
class Simulation:
    """The CPU provider with Q/DQ fusion disabled.

    threads: as in `OnnxRuntime`.
    """

    threads: int = 0

    @property
    def bodies(self) -> Mapping[str, tuple[str, ...]]:
        """Always empty, because simulated bodies are opened by their names and not selected by precision."""
        return {}

    def load(self, bundle: Bundle, name: str) -> LoadedGraph:
        return self.load_graph(bundle, find_graph(bundle, name))

    def load_graph(self, bundle: Bundle, entry: GraphEntry) -> LoadedGraph:
        """Load any graph of a bundle, after checking it against the manifest."""
        graph = load_stored(bundle, entry)
        if has_type(graph, BFLOAT16):
            return open_simulated(graph, self.threads)
        return OnnxRuntime(threads=self.threads, fuse_qdq=False).load_graph(bundle, entry)
