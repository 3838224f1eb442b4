"""Patterns of nodes that passes search for: "Mul(x, Tanh(Softplus(x)))"."""

import ast
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cache
from typing import Any

from fewstep.graph.graph import Node
from fewstep.graph.index import Index

EITHER_WAY = ("Add", "Mul")  # commutative operations


@dataclass(frozen=True)
class Match:
    """The nodes of a pattern in the order of its text, and the tensors bound to its names."""

    nodes: tuple[Node, ...]
    tensors: Mapping[str, str]

    def __getitem__(self, name: str) -> str:
        return self.tensors[name]


@dataclass(frozen=True)
class NodePattern:
    """A part of a pattern: the allowed operations, the first operands, and whether nothing but the rest of the pattern
    may read its output. A lower-case operand is any tensor, the same one at each occurrence. An upper-case operand is a
    constant."""

    ops: frozenset[str]
    operands: "tuple[NodePattern | str, ...]"
    is_inner: bool


def match(node: Node | None, pattern: str, idx: Index) -> Match | None:
    """Match a pattern to a node and the nodes that produce its inputs. The node matches the outermost operation, the
    first in the pattern's text. Return None if there is no match.

    "Add(*MatMul(x, W), bias)" is the sum of any tensor and a product with a constant. "*" means that nothing else reads
    the product. Add and Mul match in both orders. "(Mul | Div)(x, y)" is either of the two.
    """
    return None if node is None else next(_matches(node, _parse_pattern(pattern), idx, Match((), {})), None)


@cache
def _parse_pattern(pattern: str) -> Any:
    return _part(ast.parse(pattern, mode="eval").body)


def _part(text: Any) -> NodePattern | str:
    is_inner = isinstance(text, ast.Starred)
    text = text.value if is_inner else text
    if isinstance(text, ast.Name):
        return text.id
    return NodePattern(frozenset(ast.unparse(text.func).split(" | ")), tuple(map(_part, text.args)), is_inner)


def _matches(node: Node, pattern: NodePattern, idx: Index, before: Match) -> Iterator[Match]:
    if node.op not in pattern.ops or node.domain or len(node.inputs) < len(pattern.operands):
        return
    for inputs in (node.inputs, node.inputs[::-1])[: 1 + (node.op in EITHER_WAY)]:
        found = [Match((*before.nodes, node), before.tensors)]
        for part, name in zip(pattern.operands, inputs, strict=False):
            found = [more for match_so_far in found for more in _match_operand(name, part, idx, match_so_far)]
        yield from found


def _match_operand(name: str, part: NodePattern | str, idx: Index, before: Match) -> Iterator[Match]:
    if isinstance(part, str):
        if before.tensors.get(part, name) == name and not (part.isupper() and not idx.graph.is_constant(name)):
            yield Match(before.nodes, {**before.tensors, part: name})
    elif (node := idx.producers.get(name)) is not None and (not part.is_inner or idx.is_inner(name)):
        yield from _matches(node, part, idx, before)
