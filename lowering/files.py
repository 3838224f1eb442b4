"""Weights of large bodies in files of their bundle, mapped from there: in memory lies only the one that is at work."""

from dataclasses import dataclass

from fewstep.graph import io, weights
from fewstep.graph.commit import Writer
from fewstep.graph.graph import Graph


@dataclass(frozen=True)
class Files:
    """The files of a bundle that is written."""

    writer: Writer

    def keep(self, name: str, graph: Graph) -> Graph:
        """A lowered graph in the bundle already: the next one finds the weights that it shares."""
        (kept,) = io.keep(self.writer, graph)
        io.store(self.writer, kept, name)
        weights.release(kept)
        return kept
