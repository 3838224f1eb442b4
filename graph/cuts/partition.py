"""Partition a graph into consecutive parts, each with few enough weights to fit in memory."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace

from fewstep.graph.graph import Graph, Value
from fewstep.graph.passes.constants import drop_unused
from fewstep.graph.types import infer_types
from fewstep.plans.errors import UserError


def partition_graph(graph: Graph, weights: int) -> Iterator[Graph]:
    """Split a graph into parts of consecutive nodes, and yield the parts as graphs. A part exceeds `weights` bytes of
    constants only if a single node does.

    A part reads outputs of earlier parts and inputs of the graph. It returns the tensors that later parts read and
    outputs of the graph. Run in order, the parts compute the graph.
    """
    types = infer_types(graph).values
    read_last = {name: place for place, node in enumerate(graph.nodes) for name in node.inputs}
    read_last |= {value.name: len(graph.nodes) for value in graph.outputs}
    for start, end in _part_bounds(graph, weights):
        yield _part(graph, start, end, types, read_last)


def _part_bounds(graph: Graph, weights: int) -> Iterator[tuple[int, int]]:
    """Yield the index of the first node of each part, and the index after its last node."""
    start, held = 0, dict[str, int]()
    for place, node in enumerate(graph.nodes):
        own = {name: graph.constants[name].nbytes for name in node.inputs if name in graph.constants}
        if held and not own.keys() <= held.keys() and sum((held | own).values()) > weights:
            yield start, place
            start, held = place, {}
        held |= own
    yield start, len(graph.nodes)


def _part(graph: Graph, start: int, end: int, types: Mapping[str, Value], read_last: Mapping[str, int]) -> Graph:
    nodes = graph.nodes[start:end]
    tensors = [name for node in nodes for name in node.outputs if name]
    given = {"", *graph.constants, *tensors, *(value.name for value in graph.optional)}
    taken = dict.fromkeys(name for node in nodes for name in node.inputs if name not in given)
    outputs = [name for name in tensors if read_last.get(name, -1) >= end]
    return drop_unused(replace(graph, inputs=_values([*taken], types), outputs=_values(outputs, types), nodes=nodes))


def _values(names: Sequence[str], types: Mapping[str, Value]) -> tuple[Value, ...]:
    for name in names:
        if name not in types:
            raise UserError(f"the type of tensor {name!r} cannot be inferred", "export the denoiser again")
    return tuple(types[name] for name in names)
