"""Weights of large bodies in files of their bundle, mapped from there: in memory lies only the one that is at work."""

from dataclasses import dataclass

from fewstep.graph import io, weights
from fewstep.graph.commit import Writer
from fewstep.graph.graph import Graph
from fewstep.lowering.rounded import Rounded


@dataclass(frozen=True)
class Files:
    """The files of a bundle that is written."""

    writer: Writer

    def draft(self, graph: Graph) -> Graph:
        """A graph that may not stay, with its weights mapped. Nothing else refers to them, and where no manifest names
        them the writer removes them."""
        (kept,) = io.keep(self.writer, graph)
        weights.release(graph)
        weights.release(kept)
        return kept

    def keep(self, name: str, graph: Graph) -> Graph:
        """A lowered graph in the bundle already: the next one finds the weights that it shares."""
        (kept,) = io.keep(self.writer, graph)
        io.store(self.writer, kept, name)
        weights.release(kept)
        return kept

    def rounded(self) -> Rounded:
        """A place for the weights that lowerings share, which goes with the writer."""
        return Rounded(self.writer.scratch)
