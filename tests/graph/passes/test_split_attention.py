"""Attention, computed a few heads or queries at a time."""

import numpy as np
import pytest

from fewstep.graph.graph import Graph
from fewstep.graph.passes.split_attention import LARGE, split_attention
from tests.graph.small_graphs import assert_same
from tests.onnx_text import graph_of_text

SCORES = 6 * 10 * 10 * 4  # bytes of a sample, of all heads


def attention(between: str, heads: int = 6, tokens: int | str = 10, **constants: object) -> Graph:
    """q times k, then `between`, which ends as "w", then w times v."""
    q, k, v = (f"float[batch, {heads}, {sizes}]" for sizes in (f"{tokens}, 4", "4, 10", "10, 4"))
    return graph_of_text(
        f"({q} q, {k} k, {v} v) => ({q} y) {{ s = MatMul(q, k) {between} y = MatMul(w, v) }}", **constants
    )


def parts(before: Graph, large: int) -> int:
    """Return the number of softmaxes after the pass, whose result is the same."""
    after = split_attention(before, large)
    assert_same(before, after)
    assert split_attention(after, large).nodes == after.nodes
    return after.ops().count("Softmax")


@pytest.mark.parametrize(
    ("large", "expected"), [(SCORES, 1), (SCORES - 1, 2), (SCORES // 2 - 1, 3), (SCORES // 4, 6), (SCORES // 6, 6)]
)
def test_as_few_parts_as_keep_the_scores_small(large: int, expected: int) -> None:
    assert parts(attention("w = Softmax(s)"), large) == expected


@pytest.mark.parametrize("shape", [(1,), (10, 10), (6, 1, 10), (6, 10, 10), (1, 6, 10, 10), (1, 1, 10, 10)])
def test_masks_and_scales_are_taken_apart_as_they_lie(shape: tuple[int, ...]) -> None:
    mask = np.random.default_rng(0).standard_normal(shape).astype(np.float32)
    between = "scaled = Mul(s, half) masked = Add(scaled, mask) w = Softmax(masked)"
    assert parts(attention(between, half=0.5, mask=mask), SCORES // 3) == 3


def test_one_head_is_taken_apart_by_its_queries() -> None:
    mask = np.random.default_rng(0).standard_normal((10, 10)).astype(np.float32)
    assert parts(attention("masked = Add(s, mask) w = Softmax<axis=3>(masked)", heads=1, mask=mask), 80) == 5


@pytest.mark.parametrize(
    "before",
    [
        attention("w = Softmax<axis=2>(s)"),
        attention("twice = Add(s, s) w = Softmax(twice)"),
        attention("p = Softmax(s) w = Relu(p)"),
        attention("w = Softmax(s)", heads=1, tokens="tokens"),
        attention("w = Softmax(s) unread = Identity(w) unread_too = Identity(w)"),
    ],
    ids=["over-the-other-axis", "scores-read-twice", "changed-weights", "unknown-queries", "weights-read-by-others"],
)
def test_what_cannot_be_taken_apart_stays(before: Graph) -> None:
    assert split_attention(before, 1) is before


def test_small_networks_stay_as_they_are() -> None:
    before = attention("w = Softmax(s)")
    assert SCORES < LARGE and split_attention(before) is before


@pytest.mark.parametrize("mixed", ["w, q", "w, v"])
def test_one_head_stays_whole_where_a_tensor_has_two_roles(mixed: str) -> None:
    """The queries of a part are some of its rows, and the values all of them. The same holds for rows of a mask."""
    q, v, y = (f"float[batch, 1, 10, {width}]" for width in (4, 10, 4 if mixed == "w, q" else 10))
    body = f"s = MatMul(q, k) masked = Add(s, v) w = Softmax(masked) y = MatMul({mixed})"
    assert parts(graph_of_text(f"({q} q, float[batch, 1, 4, 10] k, {v} v) => ({y} y) {{ {body} }}"), 80) == 1


def test_values_of_five_axes_leave_attention_whole() -> None:
    values = np.random.default_rng(0).standard_normal((2, 1, 6, 10, 3))
    text = """(float[batch, 6, 10, 4] q, float[batch, 6, 4, 10] k) => (float[2, batch, 6, 10, 3] y)
    { s = MatMul(q, k) w = Softmax(s) y = MatMul(w, values) }"""
    assert parts(graph_of_text(text, values=values), SCORES // 3) == 1
