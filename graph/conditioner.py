"""The conditioner: what depends on conditions alone, cut off the prologue, which runs once for each time as well."""

from collections.abc import Iterable
from dataclasses import dataclass, replace

from fewstep.graph.extents import restrict_extents
from fewstep.graph.graph import TIME, TO, Graph
from fewstep.graph.index import Index, index
from fewstep.graph.mac_count import estimate_macs
from fewstep.graph.passes.constants import drop_unused
from fewstep.graph.prologue import boundary, can_be_row
from fewstep.graph.types import Types, infer_types

WORTH = 10**6  # multiply-accumulates of one condition: below it a graph of its own costs more than it saves
LITTLE = 500  # conditions with less than this part of the work are the prologue's
SMALL = 2**13  # bytes of a row without time that the prologue may make of such a condition, once for each time


@dataclass(frozen=True)
class ConditionerSplit:
    """A prologue without what depends on conditions alone. Either may be all there is, or have nothing to do."""

    conditioner: Graph | None
    prologue: Graph | None


def cut_conditioner(prologue: Graph, worth: int = WORTH, little: int = LITTLE) -> ConditionerSplit:
    """Cut a prologue where its values begin to depend on time.

        row = Gemm(time) + Conv(image)  ==>  conditioner: return seen = Conv(image)    prologue: row = Gemm(time) + seen

    An observation encoder, or the keys and values of a text, so run once a call and not once a step. Rows that time has
    no part in leave the prologue altogether. Where the cut would carry anything but rows, what makes them stays.

    What follows from a condition with little work, as from a label beside pictures, stays in the prologue. It takes
    little of a call there, and branches of guidance with the same pictures run the conditioner once.
    """
    idx, types = index(prologue), infer_types(prologue)
    inside = _prologue_tensors(idx, types, [TIME, TO])
    whole, light = _work_outside(idx, types, inside), list[str]()
    for name in (value.name for value in prologue.inputs if value.name not in (TIME, TO)):
        further = _prologue_tensors(idx, types, [TIME, TO, *light, name])
        lost = whole - _work_outside(idx, types, further)
        if lost * little < whole and not _large_rows(idx, types, further - inside):
            light.append(name)
            inside = further
    before = tuple(node for node in prologue.nodes if node.output not in inside)
    if _work_outside(idx, types, inside) < worth:
        return ConditionerSplit(None, prologue)
    rows = tuple(types.values[name] for name in _boundary(idx, inside))
    row_names = {row.name for row in rows}
    after = tuple(node for node in prologue.nodes if node.output in inside)
    conditioner = replace(prologue, name="conditioner", outputs=rows, nodes=before)
    rest = replace(
        prologue,
        inputs=(*prologue.inputs, *rows),
        outputs=tuple(value for value in prologue.outputs if value.name not in row_names),
        nodes=after,
    )
    return ConditionerSplit(_drop_unread(conditioner), _drop_unread(rest) if rest.outputs else None)


def _prologue_tensors(idx: Index, types: Types, moving: Iterable[str]) -> set[str]:
    """The tensors of the prologue itself: all that follows from `moving`, and what makes anything else than rows."""
    reached = idx.dependents(moving)
    inside = {node.output for node in idx.graph.nodes if not reached.isdisjoint(node.inputs)}
    while others := [name for name in _boundary(idx, inside) if not can_be_row(name, types)]:
        inside.update(idx.producers[name].output for name in others)
    return inside


def _work_outside(idx: Index, types: Types, inside: set[str]) -> int:
    return sum(estimate_macs(node, types) for node in idx.graph.nodes if node.output not in inside)


def _large_rows(idx: Index, types: Types, moved: set[str]) -> list[str]:
    """The large rows without time among what would move inside, where they would be made once for each time."""
    timed = idx.dependents([TIME, TO])
    rows = [value.name for value in idx.graph.outputs if value.name not in timed and value.name in idx.producers]
    return [row for row in rows if idx.producers[row].output in moved and (types.sample_bytes(row) or 0) > SMALL]


def _boundary(idx: Index, inside: set[str]) -> tuple[str, ...]:
    """The tensors of other nodes that the nodes inside, and whoever takes the graph's outputs, read, in order."""
    return tuple(name for name in boundary(idx.graph, inside) if name in idx.producers)


def _drop_unread(graph: Graph) -> Graph:
    """Without inputs and constants that nothing reads."""
    graph = drop_unused(graph)
    read = {name for node in graph.nodes for name in node.inputs}
    return restrict_extents(replace(graph, inputs=tuple(value for value in graph.inputs if value.name in read)))
