"""A light graph that reads the features of the full one returns its output, and cuts are found by their work."""

import numpy as np
import pytest

from fewstep.graph.cuts.feature_cuts import choose_cut, find_cuts, split_body
from fewstep.graph.graph import Graph
from fewstep.graph.session import run
from fewstep.plans.errors import UserError
from tests.graph.small_graphs import feeds
from tests.onnx_text import graph_of_text

RNG = np.random.default_rng(0)
UNET = """(float[batch, 4] x) => (float[batch, 4] y) {
    near = MatMul(x, w44) deep = MatMul(near, w48) deeper = MatMul(deep, w88) up = MatMul(deeper, w84)
    bent = Tanh(up) joined = Add(near, bent) y = MatMul(joined, w44)
}"""
BLOCKS = """(float[batch, 4] x, float[batch, 4] row) => (float[batch, 4] y) {
    embedded = MatMul(x, w44) h0 = Add(embedded, row)
    a1 = Tanh(h0) b1 = MatMul(a1, w44) h1 = Add(h0, b1)
    a2 = Tanh(h1) b2 = MatMul(a2, w44) h2 = Add(h1, b2)
    a3 = Tanh(h2) b3 = MatMul(a3, w44) h3 = Add(h2, b3)
    a4 = Tanh(h3) b4 = MatMul(a4, w44) h4 = Add(h3, b4)
    y = MatMul(h4, w44)
}"""
TWO_SUMS = """(float[batch, 4] x) => (float[batch, 4] y) {
    h0 = MatMul(x, w44)
    b1 = MatMul(h0, w44) g1 = Add(h0, b1) a1 = Tanh(g1) h1 = Add(g1, a1)
    b2 = MatMul(h1, w44) g2 = Add(h1, b2) a2 = Tanh(g2) h2 = Add(g2, a2)
    b3 = MatMul(h2, w44) g3 = Add(h2, b3) a3 = Tanh(g3) h3 = Add(g3, a3)
    y = MatMul(h3, w44)
}"""
PLAIN = "(float[batch, 4] x) => (float[batch, 4] y) { near = MatMul(x, w44) deep = Tanh(near) y = MatMul(deep, w44) }"


def body(text: str) -> Graph:
    weights = {f"w{a}{b}": RNG.standard_normal((a, b)).astype(np.float32) / 3 for a in (4, 8) for b in (4, 8)}
    return graph_of_text(text, **{name: array for name, array in weights.items() if name in text})


def test_cuts_of_a_unet_are_numbered_from_the_cheapest_light_graph() -> None:
    # multiply-adds: near 16, deep 32, deeper 64, up 32, y 16
    assert [(cut.name, cut.end, cut.share) for cut in find_cuts(body(UNET))] == [
        ("depth1", "bent", 32 / 160),
        ("depth2", "deeper", 64 / 160),
    ]


def test_cuts_of_a_chain_of_blocks_are_named_after_the_blocks_that_are_computed() -> None:
    # multiply-adds: 16 for the first layer, for each of 4 blocks and for the last layer
    cuts = {cut.name: (cut.start, cut.end, round(cut.share * 6)) for cut in find_cuts(body(BLOCKS))}
    assert cuts == {
        "F0B0": ("h0", "h4", 2),
        "F1B0": ("h1", "h4", 3),
        "F0B1": ("h0", "h3", 3),
        "F2B0": ("h2", "h4", 4),
        "F1B1": ("h1", "h3", 4),
    }


def test_a_block_may_have_two_residual_sums() -> None:
    cut = choose_cut(body(TWO_SUMS), "F1B1")
    assert (cut.start, cut.end) == ("h1", "h2")


@pytest.mark.parametrize(
    ("text", "name"), [(UNET, "depth1"), (UNET, "depth2"), (UNET, "deep"), (BLOCKS, "F1B0"), (BLOCKS, "F2B1")]
)
def test_the_light_graph_returns_the_full_output_from_fresh_features(text: str, name: str) -> None:
    whole = body(text)
    parts = split_body(whole, choose_cut(whole, name), "features")
    given = feeds(whole, 3)
    full, expected = run(parts.full, given), run(whole, given)["y"]
    read = {value.name: given.get(value.name, full["next_features"]) for value in parts.light.inputs}
    np.testing.assert_array_equal(full["y"], expected)
    np.testing.assert_allclose(run(parts.light, read)["y"], expected, rtol=0, atol=1e-6 * np.abs(expected).max())


def test_the_light_graph_computes_nothing_before_the_cut() -> None:
    whole = body(UNET)
    assert split_body(whole, choose_cut(whole, "depth1"), "features").light.ops() == ("MatMul", "Add", "MatMul")


def test_an_unknown_name_lists_the_cuts_with_their_work() -> None:
    with pytest.raises(UserError) as raised:
        choose_cut(body(UNET), "depth3")
    assert raised.value.fix == "choose depth1 (20% of the work), depth2 (40% of the work)"


def test_a_tensor_that_all_of_x_passes_is_no_cut() -> None:
    with pytest.raises(UserError, match="no cut 'near'"):
        choose_cut(body(UNET), "near")


def test_x_is_no_cut() -> None:
    with pytest.raises(UserError, match="no cut 'x'"):
        choose_cut(body(UNET), "x")


def test_a_network_without_skips_has_no_cut() -> None:
    with pytest.raises(UserError, match="cannot be cut at .depth1., or anywhere else"):
        choose_cut(body(PLAIN), "depth1")
