"""Weights of large bodies in files of their bundle, mapped from there: in memory lies only the one that is at work."""

from fewstep.graph import io, weights
from fewstep.graph.commit import Writer
from fewstep.graph.graph import Graph


def kept_in_files(writer: Writer, name: str, graph: Graph) -> Graph:
    """A lowered graph in the bundle already: the next one finds the weights that it shares."""
    (kept,) = io.keep(writer, graph)
    io.store(writer, kept, name)
    weights.release(kept)
    return kept
