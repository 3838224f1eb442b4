"""The producer and the consumers of each tensor of a graph, and the tensors that depend on others."""

import heapq
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass

from fewstep.graph.graph import Graph, Node
from fewstep.plans.errors import UserError


@dataclass(frozen=True)
class Index:
    """Lookups for one Graph. Build it once per pass; a changed graph needs a new one."""

    graph: Graph
    producers: Mapping[str, Node]  # tensor -> the node that computes it; graph inputs and constants have none
    consumers: Mapping[str, tuple[Node, ...]]  # tensor -> the nodes that read it, in order
    outputs: frozenset[str]  # names of the graph's outputs

    def producer(self, name: str, op: str) -> Node | None:
        """Return the node that computes `name` if its operation is `op`, otherwise None."""
        node = self.producers.get(name)
        return node if node is not None and node.op == op and not node.domain else None

    def is_inner(self, name: str) -> bool:
        """Return True if exactly one node reads the tensor and the graph does not return it. Such a tensor may be
        rewritten freely."""
        return len(self.consumers.get(name, ())) == 1 and name not in self.outputs

    def dependents(self, sources: Iterable[str], closed: Collection[str] = ()) -> frozenset[str]:
        """Return every tensor whose value depends on one of `sources` (themselves included) through operations not in
        `closed`."""
        reached = set(sources)
        for node in self.graph.nodes:
            if not reached.isdisjoint(node.inputs) and node.op not in closed:
                reached.update(output for output in node.outputs if output)
        return frozenset(reached)

    def dependencies(self, targets: Iterable[str], given: Collection[str] = ()) -> frozenset[str]:
        """Return every tensor on which the values of `targets` depend (themselves included). The search stops at the
        tensors `given`."""
        needed = set(targets) - {*given}
        for node in reversed(self.graph.nodes):
            if not needed.isdisjoint(node.outputs):
                needed.update(name for name in node.inputs if name and name not in given)
        return frozenset(needed)


def index(graph: Graph) -> Index:
    """Return the producer and the consumers of each tensor of a graph, as an Index."""
    producers = {output: node for node in graph.nodes for output in node.outputs if output}
    consumers: dict[str, list[Node]] = {}
    for node in graph.nodes:
        for name in dict.fromkeys(node.inputs):  # a node is listed once, even if it reads a tensor twice
            if name:
                consumers.setdefault(name, []).append(node)
    readers = {name: tuple(nodes) for name, nodes in consumers.items()}
    return Index(graph, producers, readers, frozenset(value.name for value in graph.outputs))


def sort_topologically(nodes: Iterable[Node], known: Iterable[str]) -> tuple[Node, ...]:
    """Sort nodes so that each comes after the nodes whose outputs it reads. Otherwise the order is kept. `known` are
    the names of inputs and constants."""
    places = list(nodes)
    ready = set(known) | {""}
    missing = [set(node.inputs) - ready for node in places]
    readers: dict[str, list[int]] = {}
    for place, names in enumerate(missing):
        for name in names:
            readers.setdefault(name, []).append(place)
    next_places = [place for place, names in enumerate(missing) if not names]  # sorted, and so already a heap
    ordered: list[Node] = []
    while next_places:
        node = places[heapq.heappop(next_places)]
        ordered.append(node)
        for output in {*node.outputs} - ready:
            for place in readers.get(output, ()):
                missing[place].discard(output)
                if not missing[place]:
                    heapq.heappush(next_places, place)
        ready.update(node.outputs)
    if len(ordered) < len(places):
        read = {name for names in missing for name in names}
        unmade = read - {name for node in places for name in node.outputs} or read  # empty if there is a cycle
        raise UserError(f"the graph reads {min(unmade)!r}, which no node computes before it", "export the model again")
    return tuple(ordered)
