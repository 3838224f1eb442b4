"""Cut the conditioner off the prologue. It is the part that depends only on conditions, and runs once for all times."""

from collections.abc import Iterable
from dataclasses import dataclass, replace

from fewstep.graph.cuts.prologue import boundary, can_be_row
from fewstep.graph.extents import restrict_extents
from fewstep.graph.graph import TIME, TO, Graph
from fewstep.graph.index import Index, index
from fewstep.graph.mac_count import estimate_macs
from fewstep.graph.passes.constants import drop_unused
from fewstep.graph.types import Types, infer_types

WORTH = 10**6  # multiply-accumulates of one sample; for less work, a separate graph costs more than it saves
LITTLE = 500  # a condition with less than 1/LITTLE of the work stays in the prologue
SMALL = 2**13  # bytes of a row that the prologue may compute from such a condition again for each time


@dataclass(frozen=True)
class ConditionerSplit:
    """A prologue and the conditioner that was cut off it. Either may be None."""

    conditioner: Graph | None
    prologue: Graph | None


def cut_conditioner(prologue: Graph, worth: int = WORTH, little: int = LITTLE) -> ConditionerSplit:
    """Cut a prologue where its values begin to depend on time.

        row = Gemm(time) + Conv(image)  ==>  conditioner: return seen = Conv(image)    prologue: row = Gemm(time) + seen

    An observation encoder, or the keys and values of a text, is then computed once per call, not once per step. Rows
    that do not depend on time leave the prologue. Nodes whose outputs cannot be passed as rows stay in the prologue.

    Conditions that need little work, such as a label in addition to images, stay in the prologue. They take little time
    there, and branches of guidance that differ only in them share one run of the conditioner.
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
    """Return the tensors that the prologue computes: all that depend on `moving`, and those that they need but that
    cannot be outputs of the conditioner."""
    reached = idx.dependents(moving)
    inside = {node.output for node in idx.graph.nodes if not reached.isdisjoint(node.inputs)}
    while others := [name for name in _boundary(idx, inside) if not can_be_row(name, types)]:
        inside.update(idx.producers[name].output for name in others)
    return inside


def _work_outside(idx: Index, types: Types, inside: set[str]) -> int:
    return sum(estimate_macs(node, types) for node in idx.graph.nodes if node.output not in inside)


def _large_rows(idx: Index, types: Types, moved: set[str]) -> list[str]:
    """Return the large outputs of the prologue among `moved` that do not depend on time. In the prologue, they would be
    computed again for each time."""
    timed = idx.dependents([TIME, TO])
    rows = [value.name for value in idx.graph.outputs if value.name not in timed and value.name in idx.producers]
    return [row for row in rows if idx.producers[row].output in moved and (types.sample_bytes(row) or 0) > SMALL]


def _boundary(idx: Index, inside: set[str]) -> tuple[str, ...]:
    """Return the tensors that are computed outside but read inside, or that are outputs of the graph, in the order in
    which they are read. `inside` are the tensors that the prologue computes."""
    return tuple(name for name in boundary(idx.graph, inside) if name in idx.producers)


def _drop_unread(graph: Graph) -> Graph:
    """Return the graph without inputs and constants that no node reads."""
    graph = drop_unused(graph)
    read = {name for node in graph.nodes for name in node.inputs}
    return restrict_extents(replace(graph, inputs=tuple(value for value in graph.inputs if value.name in read)))
