"""Bodies that are loaded at their first run and can be unloaded again, so that memory holds only one session of a large
network."""

from dataclasses import dataclass, field
from pathlib import Path

from fewstep.runtime.backends import RUN_ONCE, LoadedGraph
from fewstep.runtime.backends.onnxruntime import OnnxRuntime
from fewstep.runtime.bundle.reading import Bundle
from fewstep.runtime.sampling.lazy_graphs import LazyGraph


@dataclass(frozen=True)
class HashOnceBundle(Bundle):
    """A bundle that no other process modifies: each of its files is hashed only once."""

    _checked: dict[str, Path] = field(default_factory=dict, init=False, compare=False)

    def file(self, name: str) -> Path:
        if name not in self._checked:
            self._checked[name] = super().file(name)
        return self._checked[name]


@dataclass(frozen=True)
class LazyOnnxRuntime(OnnxRuntime):
    """onnxruntime whose bodies are loaded at their first call. Graphs that run once, before the first step, are loaded
    immediately."""

    def load(self, bundle: Bundle, name: str) -> LoadedGraph:
        engine = OnnxRuntime(threads=self.threads)
        if name in RUN_ONCE:
            return engine.load(bundle, name)
        return LazyGraph(HashOnceBundle(bundle.path, bundle.manifest), name, engine)


def close(graph: LoadedGraph) -> None:
    """Close a graph if it is a `LazyGraph`."""
    if isinstance(graph, LazyGraph):
        graph.close()
