"""Describe a graph's interface for the manifest."""

from collections.abc import Collection

from fewstep.graph.graph import GROUP, TIME, TO, Graph, Value, X
from fewstep.runtime.kinds.graph_entry import CARRIED, NAMED, NEXT, GraphEntry, Role, TensorEntry


def describe(graph: Graph, file: str, data: tuple[str, ...] = (), conditions: Collection[str] = ()) -> GraphEntry:
    """Return the manifest entry of a graph stored in `file`. Inputs that are neither standard inputs (such as x and
    time) nor in `conditions` are prologue rows.

    The outputs of a graph without the input x (a prologue or a conditioner) are rows. Those of other graphs are the
    denoiser's outputs and carried tensors.
    """
    roles: dict[str, Role] = {X: "x", TIME: "time", TO: "to", GROUP: "group", **dict.fromkeys(conditions, "condition")}
    roles |= {value.name: "carried" for value in graph.inputs if value.name.startswith(CARRIED)}
    is_body = any(value.name == X for value in graph.inputs)
    return GraphEntry(
        file=file,
        inputs=tuple(_tensor(value, roles.get(value.name, "row")) for value in graph.inputs),
        outputs=tuple(_tensor(value, _output_role(value) if is_body else "row") for value in graph.outputs),
        data=data,
    )


def _output_role(value: Value) -> Role:
    if value.name.startswith(NAMED):
        return "named"
    return "carried" if value.name.startswith(NEXT) else "output"


def _tensor(value: Value, role: Role) -> TensorEntry:
    return TensorEntry(value.name, role, value.shape, value.dtype.name)  # type: ignore[arg-type]  # checked when it is read
