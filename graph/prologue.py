"""The prologue: what does not depend on x, cut off to run once per call instead of once per step."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace

import numpy as np

from fewstep.graph.extents import is_named, restrict_extents
from fewstep.graph.graph import BATCH, TIME, Array, Graph, Value, X, varies_per_call
from fewstep.graph.index import Index, index
from fewstep.graph.mac_count import estimate_macs
from fewstep.graph.passes.constants import drop_unused
from fewstep.graph.selection import SIZES
from fewstep.graph.session import open_session
from fewstep.graph.types import Types, infer_types

ROW_LIMIT = 2**20  # bytes of one sample of one row: more than this cost more to carry than they save
WORK_LIMIT = 100  # multiply-accumulates for a byte saved: more take longer than the byte, on CPUs and GPUs alike
Run = Callable[[Mapping[str, Array]], dict[str, Array]]


@dataclass(frozen=True)
class PreparedDenoiser:
    """A denoiser as it is deployed. `conditioner` makes the rows that depend on conditions alone, `prologue` makes the
    others, and `body` reads x and the rows. Where both are None the body takes all inputs."""

    prologue: Graph | None
    body: Graph
    conditioner: Graph | None = None


def cut_prologue(graph: Graph, row_limit: int = ROW_LIMIT) -> PreparedDenoiser:
    """Cut a graph where its values begin to depend on x.

        return x * Gemm(time)      ==>      prologue: return row = Gemm(time)      body: return x * row

    The rows keep the names they have in the graph. A row above the limit is made in the body instead, from what it is
    made of, as long as that is smaller. What the body reads of the graph's own inputs stays an input of it: a degraded
    image is then not carried once for each step. Rows are float32 with the batch as their leading axis. The body makes
    anything else itself, such as the batch of a condition or a mask of its values. Where nothing can be cut, the graph
    stays whole. A graph of tokens loses a time that it does not read: who runs it knows by that which evaluations
    repeat.
    """
    idx, types = index(graph), infer_types(graph)
    moving = idx.dependents(_varying_inputs(graph))
    reached = idx.dependents(
        value.name for value in graph.inputs if value.name != X
    )  # what depends on neither is inside
    inside = {n.output for n in graph.nodes if not moving.isdisjoint(n.inputs) or reached.isdisjoint(n.inputs)}
    inside.update(value.name for value in graph.outputs)  # no graph returns what it is fed
    read = {value.name: value for value in graph.inputs}
    rows = boundary(graph, inside, X)
    while inner := frozenset[str]().union(
        *(_recomputed_tensors(row, idx, types, row_limit) for row in rows if row not in read)
    ):
        inside.update(inner)
        rows = boundary(graph, inside, X)
    if read.keys() >= set(rows):
        return PreparedDenoiser(None, _drop_dead_time(graph))
    return _split_at(graph, inside, tuple(read.get(row) or types.values[row] for row in rows), moving)


def x_independent_tensors(graph: Graph) -> frozenset[str]:
    """The tensors whose values follow from times and conditions, and not from x. Its shape alone is none of its
    values."""
    idx = index(graph)
    return idx.dependents((value.name for value in graph.inputs), SIZES) - idx.dependents(_varying_inputs(graph), SIZES)


def can_be_row(name: str, types: Types) -> bool:
    """True if a tensor may be carried from one graph to the next: float32, the batch first, all other sizes known."""
    value = types.values.get(name)
    if value is None or value.dtype != np.float32 or value.shape[:1] != (BATCH,):
        return False
    return all(isinstance(dim, int) for dim in types.usual[name].shape[1:]) and all(map(is_named, value.shape))


def _split_at(graph: Graph, inside: set[str], boundary: tuple[Value, ...], moving: frozenset[str]) -> PreparedDenoiser:
    """Both sides of the boundary, which is rows and inputs of the graph. `moving` is all that differs at every call."""
    before = tuple(node for node in graph.nodes if moving.isdisjoint(node.inputs))  # the body may make some of it too
    after = tuple(node for node in graph.nodes if node.output in inside)
    read = {name for node in before for name in node.inputs}
    conditions = tuple(value for value in graph.inputs if value.name not in moving)
    conditions = tuple(value for value in conditions if value.name != TIME or TIME in read)  # who reads it needs it
    rows = tuple(value for value in boundary if value not in graph.inputs)
    prologue = replace(graph, name="prologue", inputs=conditions, outputs=rows, nodes=before)
    inputs = (*(value for value in graph.inputs if value.name == X), *boundary)
    body = replace(graph, name="body", inputs=inputs, nodes=after)
    return PreparedDenoiser(restrict_extents(drop_unused(prologue)), restrict_extents(drop_unused(body)))


def _drop_dead_time(graph: Graph) -> Graph:
    """A graph of tokens without a time that nothing reads. Other graphs stay as they are: so do their hashes."""
    is_of_tokens = any(value.name == X and np.issubdtype(value.dtype, np.integer) for value in graph.inputs)
    if not is_of_tokens or any(TIME in node.inputs for node in graph.nodes):
        return graph
    return replace(graph, inputs=tuple(value for value in graph.inputs if value.name != TIME))


def _varying_inputs(graph: Graph) -> list[str]:
    """The inputs that differ at every call."""
    return [value.name for value in graph.inputs if varies_per_call(value.name)]


def boundary(graph: Graph, inside: set[str], but: str = "") -> tuple[str, ...]:
    """The tensors from outside, inputs but one among them, that the nodes inside and the outputs read, in order."""
    body = [node for node in graph.nodes if node.output in inside]
    known = {*graph.constants, *(value.name for value in graph.optional)}
    inner = {output for node in body for output in node.outputs} | known | {"", but}
    read = (*(name for node in body for name in node.inputs), *(value.name for value in graph.outputs))
    return tuple(dict.fromkeys(name for name in read if name not in inner))


def _recomputed_tensors(row: str, idx: Index, types: Types, limit: int) -> frozenset[str]:
    """The tensors that the body makes itself instead of reading this one from the prologue."""
    if can_be_row(row, types):
        return _search_upstream(row, idx, types, limit)
    return frozenset([idx.producers[row].output])


def _search_upstream(row: str, idx: Index, types: Types, limit: int) -> frozenset[str]:
    """The tensors that the body must make itself, so that fewer bytes replace a row above the limit. There are none if
    no choice has fewer bytes, or if their arithmetic takes longer than to carry the bytes.

    The search goes from the row towards the inputs, always through the largest tensor, until fewer bytes remain to
    carry. It fails at a tensor that cannot be a row, such as the integers of an embedding.
    """
    size = types.sample_bytes(row)
    if size is None or size <= limit:
        return frozenset()
    carried, inner = {row: size}, set()
    while sum(carried.values()) >= size or not all(can_be_row(name, types) for name in carried):
        producer = idx.producers.get(max(carried, key=carried.__getitem__))
        if producer is None:
            return frozenset()
        inner.add(producer.output)
        sources = {
            name: types.sample_bytes(name) for name in producer.inputs if name and name not in idx.graph.constants
        }
        for output in producer.outputs:
            carried.pop(output, None)
        for name, source in sources.items():
            if source is None:
                return frozenset()
            carried[name] = source
    arithmetic = sum(estimate_macs(node, types) for node in idx.graph.nodes if node.output in inner)
    return frozenset(inner) if arithmetic <= WORK_LIMIT * (size - sum(carried.values())) else frozenset()


def open_rows(prepared: PreparedDenoiser, opened: Callable[[Graph], Run] = open_session) -> Run:
    """From the inputs of the whole graph to the rows, and whatever else `opened` sessions return: one row a sample."""
    runs = [opened(graph) for graph in (prepared.conditioner, prepared.prologue) if graph is not None]

    def rows(feeds: Mapping[str, Array]) -> dict[str, Array]:
        results: dict[str, Array] = {}
        for run in runs:
            results |= run({**feeds, **results})
        return results

    return rows
