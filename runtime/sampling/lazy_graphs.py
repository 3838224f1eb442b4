"""Graphs that are loaded at their first call, and unloaded when other networks need their memory."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import partial
from math import inf

import numpy as np
from numpy.typing import NDArray

from fewstep.runtime.backends import Arrays, Backend, LoadedGraph, find_graph
from fewstep.runtime.backends.lru_cache import LruCache
from fewstep.runtime.bundle.reading import Bundle
from fewstep.runtime.machine.memory_pages import release_free_memory

Networks = LruCache[str, LruCache[str, LoadedGraph]]  # open graphs by network and name


@dataclass(frozen=True, eq=False)
class LazyGraph:
    """A graph of a network that is loaded at its first call. Threads may share it: a running call keeps its graph in
    memory.

    networks: the cache of loaded networks; its size limits how many are in memory at once.
    """

    bundle: Bundle
    name: str
    backend: Backend
    network: str = ""
    networks: Networks = field(default_factory=partial(LruCache, 1))

    def __call__(self, feeds: Arrays) -> dict[str, NDArray[np.float32]]:
        """Run the graph. Outputs are copies: onnxruntime's lie in the block of all its activations, so that a single
        output would keep this block in memory after the graph is closed."""
        return {name: np.array(value) for name, value in self._acquire()(feeds).items()}

    @property
    def takes_optional(self) -> bool:
        """Whether optional inputs may be fed or left out. Loads the graph, which knows it."""
        return bool(getattr(self._acquire(), "takes_optional", False))

    def close(self) -> None:
        """Unload the graph and free its memory. The next call loads it again."""
        with self.networks.lock:
            self.networks.pop(self.network, None)

    def _acquire(self) -> LoadedGraph:
        """Return the loaded graph, and mark its network as the most recently used. The graph is loaded if it is not in
        memory.

        While the lock is held, no other network is loaded or closed.
        """
        with self.networks.lock:
            return self.networks.get_or_make(self.network, partial(LruCache, inf)).get_or_make(self.name, self._open)

    def _open(self) -> LoadedGraph:
        release_free_memory()  # frees the memory of the network that was closed for this one
        return self.backend.load(self.bundle, self.name)


@dataclass(frozen=True)
class GraphsInTurns:
    """A backend that has one graph in memory at a time: conditioner and prologue are released before the steps. A run
    of several batches loads them again for each."""

    engine: Backend
    opened: Networks = field(default_factory=partial(LruCache, 1))

    @property
    def bodies(self) -> Mapping[str, tuple[str, ...]]:
        return self.engine.bodies

    def load(self, bundle: Bundle, name: str) -> LazyGraph:
        """Return a graph that is loaded at its first call. Its file tells it from a graph of its name of another
        network."""
        return LazyGraph(bundle, name, self.engine, find_graph(bundle, name).file, self.opened)
