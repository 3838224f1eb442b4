"""Operations that the user keeps in float, by patterns of their names."""

from collections.abc import Iterable, Sequence
from difflib import get_close_matches
from fnmatch import fnmatchcase

from fewstep.graph.graph import Graph, Node
from fewstep.graph.selection import explain_selection, layer_name
from fewstep.plans.errors import UserError

EXAMPLES = 3  # operation names in the message about a pattern that matches none


def match_operations(graph: Graph, patterns: Sequence[str]) -> tuple[str, ...]:
    """Return the operations with a constant weight whose name or module matches a pattern.

    A name is a module and a kind, such as "middle.conv1/Conv". Patterns are those of `fnmatch`: "middle.*" matches
    every operation in the module `middle`, "*/MatMul" every matrix product. An operation is returned as the name of its
    output.
    """
    return tuple(
        op.name for op, _ in explain_selection(graph) if any(_matches(op.node, pattern) for pattern in patterns)
    )


def check_patterns(graphs: Iterable[Graph], patterns: Sequence[str]) -> None:
    """Raise UserError for the first pattern that matches no operation of any graph."""
    nodes = [op.node for graph in graphs for op, _ in explain_selection(graph)]
    for pattern in patterns:
        if not any(_matches(node, pattern) for node in nodes):
            names = list(dict.fromkeys(layer_name(node) for node in nodes))
            near = get_close_matches(pattern, names, EXAMPLES, cutoff=0.0)
            raise UserError(
                f"--keep-float {pattern!r} matches no operation with a constant weight",
                f"names are MODULE/KIND, such as {', '.join(near)}; fewstep inspect BUNDLE --operations lists them",
            )


def _matches(node: Node, pattern: str) -> bool:
    name = layer_name(node)
    module, _, _ = name.rpartition("/")
    return any(fnmatchcase(text, pattern) for text in (name, module, node.output))
