"""Attention a few heads, or queries, at a time."""

import numpy as np
import pytest

from fewstep.graph.graph import Graph, Node
from fewstep.graph.passes.attention_in_parts import LARGE, attention_in_parts
from tests.graph.small import assert_same, node, small, value

SCORES = 6 * 10 * 10 * 4  # bytes of a sample, of all heads


def attention(*between: Node, heads: int = 6, tokens: int | str = 10, **constants: object) -> Graph:
    """q times k, then what is between, which ends as "w", then w times v."""
    given = [
        value("q", "batch", heads, tokens, 4),
        value("k", "batch", heads, 4, 10),
        value("v", "batch", heads, 10, 4),
    ]
    nodes = [node("MatMul", "q k", "s"), *between, node("MatMul", "w v", "y")]
    return small(given, [value("y", "batch", heads, tokens, 4)], nodes, **constants)


def parts(before: Graph, large: int) -> int:
    """How many softmaxes there are behind the pass, which computes the same."""
    after = attention_in_parts(before, large)
    assert_same(before, after)
    assert attention_in_parts(after, large).nodes == after.nodes
    return after.ops().count("Softmax")


@pytest.mark.parametrize(
    ("large", "expected"), [(SCORES, 1), (SCORES - 1, 2), (SCORES // 2 - 1, 3), (SCORES // 4, 6), (SCORES // 6, 6)]
)
def test_as_few_parts_as_keep_the_scores_small(large: int, expected: int) -> None:
    assert parts(attention(node("Softmax", "s", "w")), large) == expected


@pytest.mark.parametrize("shape", [(1,), (10, 10), (6, 1, 10), (6, 10, 10), (1, 6, 10, 10), (1, 1, 10, 10)])
def test_masks_and_scales_are_taken_apart_as_they_lie(shape: tuple[int, ...]) -> None:
    mask = np.random.default_rng(0).standard_normal(shape).astype(np.float32)
    between = node("Mul", "s half", "scaled"), node("Add", "scaled mask", "masked"), node("Softmax", "masked", "w")
    assert parts(attention(*between, half=0.5, mask=mask), SCORES // 3) == 3


def test_one_head_is_taken_apart_by_its_queries() -> None:
    mask = np.random.default_rng(0).standard_normal((10, 10)).astype(np.float32)
    between = node("Add", "s mask", "masked"), node("Softmax", "masked", "w", axis=3)
    assert parts(attention(*between, heads=1, mask=mask), 80) == 5


@pytest.mark.parametrize(
    "before",
    [
        attention(node("Softmax", "s", "w", axis=2)),
        attention(node("Add", "s s", "twice"), node("Softmax", "twice", "w")),
        attention(node("Softmax", "s", "p"), node("Relu", "p", "w")),
        attention(node("Softmax", "s", "w"), heads=1, tokens="tokens"),
        attention(node("Softmax", "s", "w"), node("Identity", "w", "unread"), node("Identity", "w", "unread_too")),
    ],
    ids=["over-the-other-axis", "scores-read-twice", "changed-weights", "unknown-queries", "weights-read-by-others"],
)
def test_what_cannot_be_taken_apart_stays(before: Graph) -> None:
    assert attention_in_parts(before, 1) is before


def test_small_networks_stay_as_they_are() -> None:
    before = attention(node("Softmax", "s", "w"))
    assert SCORES < LARGE and attention_in_parts(before) is before


@pytest.mark.parametrize("mixed", ["w q", "w v"])
def test_one_head_stays_whole_where_a_tensor_has_two_roles(mixed: str) -> None:
    """The queries of a part are some rows, and its values all of them. So are rows of a mask."""
    given = [value("q", "batch", 1, 10, 4), value("k", "batch", 1, 4, 10), value("v", "batch", 1, 10, 10)]
    mask = [node("Add", "s v", "masked"), node("Softmax", "masked", "w")]
    nodes = [node("MatMul", "q k", "s"), *mask, node("MatMul", mixed, "y")]
    assert parts(small(given, [value("y", "batch", 1, 10, 4 if mixed == "w q" else 10)], nodes), 80) == 1


def test_values_of_five_axes_leave_attention_whole() -> None:
    values = np.random.default_rng(0).standard_normal((2, 1, 6, 10, 3)).astype(np.float32)
    given = [value("q", "batch", 6, 10, 4), value("k", "batch", 6, 4, 10)]
    nodes = [node("MatMul", "q k", "s"), node("Softmax", "s", "w"), node("MatMul", "w values", "y")]
    assert parts(small(given, [value("y", 2, "batch", 6, 10, 3)], nodes, values=values), SCORES // 3) == 1
