"""Attention whose products run in int8, through Q/DQ pairs on their operands."""

import numpy as np
import pytest

from fewstep.calibration.lowering.attention_pairs import (
    HEADROOM,
    LEAST_TOKENS,
    Int8Products,
    find_large_attention,
    quantize_products,
)
from fewstep.graph.graph import Graph
from fewstep.graph.session import run
from tests.onnx_text import graph_of_text

SCORES, MIXED = "s", "y"
LARGEST = {"q": 3.0, "k": 2.0, "p": 0.5, "v": 4.0}


def attention(tokens: int | str, keys: int = 10, between: str = "p = Softmax(s)") -> Graph:
    q, k, v = (f"float[batch, 2, {sizes}]" for sizes in (f"{tokens}, 4", f"4, {keys}", f"{keys}, 4"))
    text = f"({q} q, {k} k, {v} v) => ({q} y) {{ s = MatMul(q, k) {between} y = MatMul(p, v) }}"
    return graph_of_text(text, half=0.5, mask=np.zeros((1, keys), np.float32))


def test_attention_of_many_tokens_is_found_with_its_operands() -> None:
    (found,) = find_large_attention(attention(LEAST_TOKENS, LEAST_TOKENS))
    assert found.operands == ("q", "k", "p", "v")
    assert (found.scores, found.mixed) == (SCORES, MIXED)


def test_a_scale_of_the_scores_may_precede_the_softmax() -> None:
    assert find_large_attention(attention(LEAST_TOKENS, LEAST_TOKENS, "h = Mul(s, half) p = Softmax(h)"))


@pytest.mark.parametrize(
    "graph",
    [
        attention(LEAST_TOKENS - 1, LEAST_TOKENS),
        attention(LEAST_TOKENS, LEAST_TOKENS - 1),
        attention("tokens", LEAST_TOKENS),
        attention(LEAST_TOKENS, LEAST_TOKENS, "m = Add(s, mask) p = Softmax(m)"),
    ],
    ids=["few-queries", "few-keys", "unknown-queries", "mask"],
)
def test_other_attention_is_left_out(graph: Graph) -> None:
    assert find_large_attention(graph) == ()


def test_only_the_operands_of_chosen_products_are_rounded() -> None:
    graph = quantize_products(attention(10), Int8Products((SCORES,), LARGEST))
    assert [node.inputs[0] for node in graph.nodes if node.op == "QuantizeLinear"] == ["q", "k"]


def test_codes_cover_the_largest_magnitudes_with_headroom() -> None:
    graph = quantize_products(attention(10), Int8Products((SCORES, MIXED), LARGEST))
    codes = {node.inputs[0]: node.inputs[1:] for node in graph.nodes if node.op == "QuantizeLinear"}
    reach = {name: float(graph.constants[scale]) for name, (scale, _) in codes.items()}
    levels = {"q": 127, "k": 127, "p": 255, "v": 127}
    assert reach == pytest.approx({name: HEADROOM * LARGEST[name] / levels[name] for name in levels})


def test_probabilities_need_no_codes_above_one() -> None:
    graph = quantize_products(attention(10), Int8Products((MIXED,), {**LARGEST, "p": 1.0}))
    (scale,) = (node.inputs[1] for node in graph.nodes if node.op == "QuantizeLinear" and node.inputs[0] == "p")
    assert float(graph.constants[scale]) == pytest.approx(1 / 255)


def test_a_tensor_with_two_roles_is_rounded_once() -> None:
    x = "float[batch, 2, 4, 4]"
    graph = graph_of_text(f"({x} q) => ({x} y) {{ s = MatMul(q, q) p = Softmax(s) y = MatMul(p, q) }}")
    after = quantize_products(graph, Int8Products((SCORES, MIXED), {"q": 3.0, "p": 1.0}))
    assert [node.inputs[0] for node in after.nodes if node.op == "QuantizeLinear"] == ["q", "p"]


def test_results_are_those_of_the_float_graph_up_to_rounding() -> None:
    rng, graph = np.random.default_rng(0), attention(10)
    feeds = {name: rng.standard_normal((1, 2, *size)).astype(np.float32) for name, size in
             (("q", (10, 4)), ("k", (4, 10)), ("v", (10, 4)))}  # fmt: skip
    p = run(graph, feeds, ["p"])["p"]
    largest = {name: float(np.abs(value).max()) for name, value in {**feeds, "p": p}.items()}
    exact = run(graph, feeds)["y"]
    rounded = run(quantize_products(graph, Int8Products((SCORES, MIXED), largest)), feeds)["y"]
    assert 20 * np.log10(np.abs(exact).max() / np.abs(exact - rounded).max()) > 35
