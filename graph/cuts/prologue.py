"""Cut the prologue: the part that does not depend on x and runs once per call instead of once per step."""

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

ROW_LIMIT = 2**20  # bytes of one sample of a row; transferring a larger row costs more than it saves
WORK_LIMIT = 100  # multiply-accumulates per byte saved; more take longer than reading the byte, on CPUs and GPUs
Run = Callable[[Mapping[str, Array]], dict[str, Array]]


@dataclass(frozen=True)
class PreparedDenoiser:
    """A denoiser as deployed, in up to three graphs. `conditioner` computes the tensors that depend only on conditions,
    and `prologue` those that also depend on the time. `body` reads x and these tensors. If `conditioner` and `prologue`
    are both None, the body reads all inputs of the network."""

    prologue: Graph | None
    body: Graph
    conditioner: Graph | None = None


def cut_prologue(graph: Graph, row_limit: int = ROW_LIMIT) -> PreparedDenoiser:
    """Cut a graph where its values begin to depend on x.

        return x * Gemm(time)      ==>      prologue: return row = Gemm(time)      body: return x * row

    Rows keep their names in the graph. If a row exceeds the limit and its sources are smaller, the body computes it
    from them. Inputs of the graph that the body reads stay inputs of the body, so that a degraded image is not copied
    for each step. Rows are float32 with the batch as their leading axis. The body computes everything else, such as the
    batch size of a condition or a mask of its values. If nothing can be cut, the graph stays whole. If a graph of
    tokens does not read its time, that input is removed, so that the caller knows which evaluations would repeat.
    """
    idx, types = index(graph), infer_types(graph)
    moving = idx.dependents(_varying_inputs(graph))
    reached = idx.dependents(
        value.name for value in graph.inputs if value.name != X
    )  # tensors that depend on no input belong to the body
    inside = {n.output for n in graph.nodes if not moving.isdisjoint(n.inputs) or reached.isdisjoint(n.inputs)}
    inside.update(value.name for value in graph.outputs)  # a graph must not return its inputs
    read = {value.name: value for value in graph.inputs}
    rows = boundary(graph, inside, X)
    while inner := frozenset[str]().union(
        *(_find_recomputed(row, idx, types, row_limit) for row in rows if row not in read)
    ):
        inside.update(inner)
        rows = boundary(graph, inside, X)
    if read.keys() >= set(rows):
        return PreparedDenoiser(None, _drop_dead_time(graph))
    return _split_at(graph, inside, tuple(read.get(row) or types.values[row] for row in rows), moving)


def x_independent_tensors(graph: Graph) -> frozenset[str]:
    """Return the tensors whose values depend on times and conditions but not on x. The shape of x does not count as its
    value."""
    idx = index(graph)
    return idx.dependents((value.name for value in graph.inputs), SIZES) - idx.dependents(_varying_inputs(graph), SIZES)


def can_be_row(name: str, types: Types) -> bool:
    """Return True if a tensor can be passed from one graph to another: it is float32, its first axis is the batch, and
    all other sizes are known."""
    value = types.values.get(name)
    if value is None or value.dtype != np.float32 or value.shape[:1] != (BATCH,):
        return False
    return all(isinstance(dim, int) for dim in types.usual[name].shape[1:]) and all(map(is_named, value.shape))


def _split_at(graph: Graph, inside: set[str], boundary: tuple[Value, ...], moving: frozenset[str]) -> PreparedDenoiser:
    """Split a graph at a boundary of tensors, which become inputs of the body. Return prologue and body. `moving` are
    the tensors that differ at every call."""
    before = tuple(
        node for node in graph.nodes if moving.isdisjoint(node.inputs)
    )  # the body may compute some of it too
    after = tuple(node for node in graph.nodes if node.output in inside)
    read = {name for node in before for name in node.inputs}
    conditions = tuple(value for value in graph.inputs if value.name not in moving)
    conditions = tuple(
        value for value in conditions if value.name != TIME or TIME in read
    )  # only if the prologue reads it
    rows = tuple(value for value in boundary if value not in graph.inputs)
    prologue = replace(graph, name="prologue", inputs=conditions, outputs=rows, nodes=before)
    inputs = (*(value for value in graph.inputs if value.name == X), *boundary)
    body = replace(graph, name="body", inputs=inputs, nodes=after)
    return PreparedDenoiser(restrict_extents(drop_unused(prologue)), restrict_extents(drop_unused(body)))


def _drop_dead_time(graph: Graph) -> Graph:
    """Drop a time input that nothing reads from a graph of tokens. Other graphs stay unchanged, and so do their
    hashes."""
    is_of_tokens = any(value.name == X and np.issubdtype(value.dtype, np.integer) for value in graph.inputs)
    if not is_of_tokens or any(TIME in node.inputs for node in graph.nodes):
        return graph
    return replace(graph, inputs=tuple(value for value in graph.inputs if value.name != TIME))


def _varying_inputs(graph: Graph) -> list[str]:
    """Return the inputs that differ at every call."""
    return [value.name for value in graph.inputs if varies_per_call(value.name)]


def boundary(graph: Graph, inside: set[str], but: str = "") -> tuple[str, ...]:
    """Return the tensors that are not computed `inside`, but are read by nodes inside or are outputs of the graph, in
    the order in which they are read. They include the graph's inputs, except the input `but`."""
    body = [node for node in graph.nodes if node.output in inside]
    known = {*graph.constants, *(value.name for value in graph.optional)}
    inner = {output for node in body for output in node.outputs} | known | {"", but}
    read = (*(name for node in body for name in node.inputs), *(value.name for value in graph.outputs))
    return tuple(dict.fromkeys(name for name in read if name not in inner))


def _find_recomputed(row: str, idx: Index, types: Types, limit: int) -> frozenset[str]:
    """Return the tensors that the body recomputes at every step instead of reading `row` from the prologue."""
    if can_be_row(row, types):
        return _search_upstream(row, idx, types, limit)
    return frozenset([idx.producers[row].output])


def _search_upstream(row: str, idx: Index, types: Types, limit: int) -> frozenset[str]:
    """Return the tensors that the body must recompute at every step so that its inputs are smaller than `row`, a tensor
    of more than `limit` bytes per sample. Return the empty set if `row` is within the limit, if no choice is smaller,
    or if recomputing takes longer than reading `row`.

    The search goes from `row` towards the inputs of the graph, always through the largest tensor, until the tensors
    that must be passed to the body are smaller than `row`. It fails at a tensor that cannot be an input of the body,
    such as the integers of an embedding.
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
    """Return a function from the inputs of the whole network to the outputs of conditioner and prologue, one row per
    sample. `opened` makes the session of a graph."""
    runs = [opened(graph) for graph in (prepared.conditioner, prepared.prologue) if graph is not None]

    def rows(feeds: Mapping[str, Array]) -> dict[str, Array]:
        results: dict[str, Array] = {}
        for run in runs:
            results |= run({**feeds, **results})
        return results

    return rows
