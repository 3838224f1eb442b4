"""A graph that is loaded again for each new batch size and choice of free sizes."""

from collections.abc import Callable, Mapping
from functools import partial

import numpy as np
from numpy.typing import NDArray

from fewstep.runtime.backends import Arrays, LoadedGraph
from fewstep.runtime.backends.checks import check_names
from fewstep.runtime.backends.lru_cache import LruCache
from fewstep.runtime.bundle.manifest import GraphEntry
from fewstep.runtime.kinds.sizes import infer_sizes, parse_dimension

SIZES = 4  # how many combinations of batch and sizes stay open


class ShapeCache:
    """A graph that is loaded once for each combination of batch size and free sizes. `make` loads it, given the sizes
    by name."""

    def __init__(self, graph: GraphEntry, make: Callable[[dict[str, int]], LoadedGraph]) -> None:
        self._graph, self._make = graph, make
        self.opened: LruCache[tuple[int, ...], LoadedGraph] = LruCache(SIZES)
        sizes = (size for tensor in graph.inputs for size in tensor.shape if isinstance(size, str))
        self._names = tuple(dict.fromkeys(name for size in sizes for name in parse_dimension(size)[1]))

    def __call__(self, feeds: Arrays) -> dict[str, NDArray[np.float32]]:
        check_names(self._graph, feeds)  # before another graph is opened, which may close this one
        found = [infer_sizes(port.shape, feeds[port.name].shape) for port in self._graph.inputs]
        return self.graph_for_sizes(
            {name: max((sizes.get(name, 1) for sizes in found), default=1) for name in self._names}
        )(feeds)

    def graph_for_sizes(self, sizes: Mapping[str, int]) -> LoadedGraph:
        """Return the graph loaded for these sizes. It is loaded at its first use, and then cached."""
        free = {name: sizes[name] for name in self._names}
        return self.opened.get_or_make(self.key(free), partial(self._make, free))

    def key(self, sizes: Mapping[str, int]) -> tuple[int, ...]:
        """Return these sizes as a key of `opened`: a tuple in a fixed order of the names."""
        return tuple(sizes[name] for name in self._names)
