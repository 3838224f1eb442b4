"""Float types in which a network computes besides float32: engines round them differently, or have no kernels."""

import re
from collections.abc import Iterator
from contextlib import contextmanager

from fewstep.graph.graph import Graph
from fewstep.graph.types import infer_types
from fewstep.plans.errors import UserError

OTHER_TYPES = ("float16", "bfloat16", "float64")
NODE = re.compile(r"node with name '([^']*)'|in node \(([^)]*)\)")  # in messages of onnxruntime


def other_float_type(graph: Graph, tensor: str) -> str | None:
    """Return the float type of a tensor that a node of the graph computes; None for float32 and other types."""
    value = infer_types(graph).values.get(tensor)
    return value.dtype.name if value is not None and value.dtype.name in OTHER_TYPES else None


@contextmanager
def explain_load_errors(graph: Graph) -> Iterator[None]:
    """Name the float type of a node for which onnxruntime has no kernel: its own message names only the operation."""
    try:
        yield
    except UserError as error:
        named = NODE.search(error.what)
        name = next(filter(None, named.groups()), "") if named is not None else None
        values = infer_types(graph).values if name is not None else {}
        for node in graph.nodes if name is not None else ():
            types = [values[name].dtype.name for name in (*node.inputs, *node.outputs) if name in values]
            dtype = next((other for other in OTHER_TYPES if other in types), None)
            if dtype is not None and node.op != "Cast" and name in ("", node.name):
                what = f"node {node.output!r} ({node.name or node.op}) computes in {dtype}, and {error.what}"
                raise UserError(what, "compute it in float32") from error
        raise
