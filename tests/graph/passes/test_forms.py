"""Operations in forms that engines recognize: Mish, Einsum, products and sums, rounding, biases."""

from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from fewstep.calibration.lowering.targets.cpu_x86 import CPU_X86
from fewstep.calibration.lowering.targets.openvino import OPENVINO
from fewstep.graph.graph import Array, Graph
from fewstep.graph.half_types import BFLOAT16, FLOAT16
from fewstep.graph.index import index
from fewstep.graph.passes.affine import merge_affine
from fewstep.graph.passes.bias import separate_bias
from fewstep.graph.passes.constants import drop_unused
from fewstep.graph.passes.einsum import expand_einsum
from fewstep.graph.passes.float32 import has_type
from fewstep.graph.passes.half import to_half
from fewstep.graph.passes.mish import expand_mish
from fewstep.graph.passes.rounding import make_runnable, round_to
from fewstep.graph.session import run
from tests.graph.small_graphs import assert_rewritten, assert_same, node, small, value
from tests.onnx_text import graph_of_text

VECTOR = "(float[batch, 64] x) => (float[batch, 64] y)"
FACTORS = "p = Softplus(x) t = Tanh(p)"
FORM = "Sigmoid Sub Mul Sub Div Mul"
RETURNED = f"{VECTOR[:-1]}, float[batch, 64] t)"


@pytest.mark.parametrize(
    ("ports", "body", "ops"),
    [
        (VECTOR, "y = Mish(x)", FORM),
        (VECTOR, f"{FACTORS} y = Mul(x, t)", FORM),
        (VECTOR, f"{FACTORS} y = Mul(t, x)", FORM),
        (VECTOR, "a = Mish(x) y = Mish(a)", f"{FORM} {FORM}"),
        (VECTOR, f"{FACTORS} m = Mul(x, t) y = Add(m, p)", f"Softplus {FORM} Add"),  # what others read too stays
        (RETURNED, f"{FACTORS} y = Mul(x, t)", f"Softplus Tanh {FORM}"),
        (VECTOR, f"{FACTORS} y = Mul(t, t)", None),
        (VECTOR, f"{FACTORS} y = Mul(p, t)", None),
        (VECTOR, "y = com.example.Mish(x)", None),
    ],
)
def test_mish_is_the_same_function_by_a_sigmoid(ports: str, body: str, ops: str | None) -> None:
    after = assert_rewritten(expand_mish, f"{ports} {{ {body} }}", ops, 1e-6)
    assert ops is None or len(after.constants) == 1  # two in a row share it


def test_it_is_mish_at_any_size() -> None:
    x = np.concatenate([-np.geomspace(1e-6, 1e4, 32), np.geomspace(1e-6, 1e30, 32)])[None]
    found = run(expand_mish(graph_of_text(f"{VECTOR} {{ y = Mish(x) }}")), {"x": x.astype(np.float32)})["y"]
    expected = x * np.tanh(np.logaddexp(0.0, x))
    np.testing.assert_allclose(found, expected, rtol=1e-6, atol=1e-6)  # below -18 a sigmoid of onnxruntime is 0


def test_int8_bodies_of_onnxruntime_have_it() -> None:
    assert expand_mish in CPU_X86.passes and expand_mish not in OPENVINO.passes


SIZES: dict[str, int | str] = {"b": "batch", "h": 2, "i": 3, "j": 4, "d": 5, "e": 6}


def einsum(equation: str, *constant: str) -> Graph:
    """One Einsum; `constant` operands are weights."""
    given, made = equation.split("->")
    shapes = {f"t{n}": [SIZES[axis] for axis in term.replace(" ", "")] for n, term in enumerate(given.split(","))}
    rng = np.random.default_rng(0)
    weights = {name: rng.standard_normal(shapes[name]) for name in constant}
    return small(
        [value(name, *shape) for name, shape in shapes.items() if name not in weights],
        [value("y", *(SIZES[axis] for axis in made.replace(" ", "")))],
        [node("Einsum", " ".join(shapes), "y", equation=equation)],
        **weights,
    )


@pytest.mark.parametrize(
    ("equation", "constant", "ops"),
    [
        ("bijde->bdiej", "", "Transpose"),
        ("bhid,bhdj->bhij", "", "MatMul"),
        ("b h i d, b h j d -> b h i j", "", "Transpose MatMul"),
        ("bdi,bdj->bij", "", "Transpose MatMul"),
        ("bij,bdj->bdi", "", "Transpose MatMul Transpose"),
        ("bihd,bjhd->bhij", "", "Transpose Transpose MatMul"),
        ("bhid,de->bhie", "t1", "MatMul"),
        ("bhid,de->behi", "t1", "MatMul Transpose"),
        ("de,bid->bie", "t0", "MatMul"),
        ("bhid,ed->bhie", "t1", "Transpose MatMul"),
        # axes are joined to one
        (
            "bdhi,bdje->bhije",
            "",
            "Reshape Reshape Transpose MatMul Reshape",
        ),  # attention over pictures, as score_sde writes it
        ("bhije,bdje->bdhi", "", "Transpose Reshape Reshape MatMul Reshape Transpose"),
        ("bhij,bijd->bhd", "", "Reshape Reshape MatMul"),
        ("bihd,hde->bie", "t1", "Reshape Reshape MatMul"),  # projections of all heads at once
        ("bid,dhe->bihe", "t1", "Reshape MatMul Reshape"),
        ("bid,dhe->bhie", "t1", "Reshape MatMul Reshape Transpose"),
        ("hde,bihd->bie", "t0", "Reshape Reshape MatMul"),
        ("dhe,bid->bihe", "t0", "Reshape MatMul Reshape"),
        # neither
        *((equation, "", None) for equation in ("bi->b", "bi,bi->b", "bid,bid->bi", "bi,bj->bij", "bid,dhe->bie")),
    ],
)
def test_a_permutation_or_a_product_is_written_out(equation: str, constant: str, ops: str | None) -> None:
    before = einsum(equation, *filter(None, [constant]))
    after = expand_einsum(before)
    if ops is None:
        assert after.nodes == before.nodes
        return
    assert sorted(after.ops()) == sorted(ops.split())
    (product,) = (each.inputs for each in after.nodes if each.op == "MatMul") if "MatMul" in ops else [("", "")]
    assert constant in product[1]  # where int8 looks for the weight
    assert_same(before, after, rtol=1e-6)


@pytest.mark.parametrize(
    ("equation", "plain"), [("...id,de->...ie", "bhid,de->bhie"), ("b...d,b...e->bd...e", "bhid,bhie->bdhie")]
)
def test_dots_stand_for_axes(equation: str, plain: str) -> None:
    before = einsum(plain, *["t1"] * plain.startswith("bhid,de"))
    dotted = replace(before.nodes[0], attributes={"equation": equation})
    after = expand_einsum(before.with_nodes([dotted]))
    assert after.ops() == expand_einsum(before).ops()
    assert_same(before, after, rtol=1e-6)


def test_axes_of_two_free_sizes_stay_apart() -> None:
    text = """(float[batch, 5, height, width] q, float[batch, 5, 3, 4] k) => (float[batch, height, width, 3, 4] y)
    { y = Einsum<equation="bdhi,bdje->bhije">(q, k) }"""
    assert_rewritten(expand_einsum, text, None)


RNG = np.random.default_rng(0)
CHANNELS = {name: RNG.standard_normal((3, 1, 1)).astype(np.float32) for name in ("gain", "bias")}


PLANES = "float[batch, 3, 4, 4]"


def test_adaptive_scale_and_shift_take_up_those_of_the_normalisation() -> None:
    before = graph_of_text(
        f"""({PLANES} x, float[batch, 3, 1, 1] scale, float[batch, 3, 1, 1] shift) => ({PLANES} y)
        {{ n = Tanh(x) a = Mul(n, gain) b = Add(a, bias) c = Mul(b, scale) y = Add(c, shift) }}""",
        **CHANNELS,
    )
    after = before
    for _ in range(4):
        after = drop_unused(merge_affine(after))
    moving = index(after).dependents(["x"])
    hot = [n.op for n in after.nodes if not moving.isdisjoint(n.inputs)]
    assert sorted(hot) == ["Add", "Mul", "Tanh"]
    assert_same(before, after, rtol=1e-6)


@pytest.mark.parametrize(
    "ports",
    [
        f"({PLANES} x, float[batch, 3, 1, 1] scale) => ({PLANES} a, {PLANES} y)",  # the graph returns a
        f"({PLANES} x, float[batch, 1, 4, 4] scale) => ({PLANES} y)",
    ],
    ids=["read-by-others", "small-factors-of-a-large-product"],
)
def test_factors_stay_apart_where_joining_wins_nothing(ports: str) -> None:
    text = f"{ports} {{ a = Mul(x, gain) y = Mul(a, scale) }}"
    assert_rewritten(merge_affine, text, None, gain=CHANNELS["gain"])


X = RNG.standard_normal((2, 64), np.float32)


def half(array: Any, dtype: Any = np.float16) -> Array:
    return np.asarray(array, np.float32).astype(dtype).astype(np.float32)


def linear(size: int, scale: float = 0.1) -> tuple[Graph, Array]:
    """y = relu(x @ w) * 3."""
    weight = (scale * RNG.standard_normal((64, size))).astype(np.float32)
    text = f"(float[batch, 64] x) => (float[batch, {size}] y)"
    body = "{ product = MatMul(x, w) kept = Relu(product) y = Mul(kept, three) }"
    graph = graph_of_text(f"{text} {body}", w=weight, three=3.0)
    return graph, weight


@pytest.mark.parametrize(("dtype", "step"), [(FLOAT16, 2e-3), (BFLOAT16, 1.6e-2)])
@pytest.mark.parametrize("size", [8, 64], ids=["small-weight", "large-weight"])
def test_every_weight_and_result_is_rounded(size: int, dtype: np.dtype[Any], step: float) -> None:
    graph, weight = linear(size)
    rounded = round_to(graph, dtype)
    product = half(half(X, dtype) @ half(weight, dtype), dtype)
    found = run(rounded, {"x": X}, also=["product", "kept"])
    np.testing.assert_allclose(found["product"], product, rtol=step)  # sums in another order, then rounded
    for array in found.values():
        np.testing.assert_array_equal(array, half(array, dtype))
    assert np.any(found["y"] != run(graph, {"x": X})["y"])


def test_a_weight_is_not_in_memory_twice() -> None:
    graph, _ = linear(64)
    before, after = (sum(array.nbytes for array in g.constants.values()) for g in (graph, round_to(graph, FLOAT16)))
    assert after - before < 100


LARGE = f"{VECTOR} {{ huge = Mul(x, large) y = Div(huge, large) }}"


def test_what_overflows_is_seen_to() -> None:
    """In a graph in float16 the CPU provider would compute 3e5 and come back without overflow."""
    graph = graph_of_text(LARGE, large=6e4)
    assert np.isinf(run(round_to(graph, FLOAT16), {"x": 5 + abs(X)}, ["huge"])["huge"]).all()


def test_a_graph_in_bfloat16_runs_rounded_and_holds_what_float16_cannot() -> None:
    """onnxruntime's CPU has no bfloat16 kernels. The same graph in float32 is rounded, and gives its values."""
    graph = graph_of_text(LARGE, large=6e4)
    half = to_half(graph, BFLOAT16)
    assert has_type(half, BFLOAT16)
    found = run(make_runnable(half), {"x": 5 + abs(X)})["y"]
    np.testing.assert_allclose(found, 5 + abs(X), rtol=1.6e-2)
    np.testing.assert_array_equal(found, run(round_to(graph, BFLOAT16), {"x": 5 + abs(X)})["y"])
    assert make_runnable(graph) is graph


def test_an_epsilon_does_not_become_zero_nor_a_weight_infinite() -> None:
    body = "{ nothing = Mul(x, zero) sum = Add(nothing, epsilon) y = Div(sum, epsilon) }"
    graph = graph_of_text(f"{VECTOR} {body}", zero=0.0, epsilon=1e-12)
    np.testing.assert_array_equal(run(round_to(graph, FLOAT16), {"x": X})["y"], 1)
    graph, weight = linear(64)
    spoiled = round_to(graph.with_nodes(graph.nodes, {"w": np.where(weight == weight.max(), 1e6, weight)}), FLOAT16)
    assert np.isfinite(run(spoiled, {"x": 1e-3 * X})["y"]).all()


def test_integers_and_what_is_float32_by_definition_stay() -> None:
    table = RNG.standard_normal((3, 1, 4, 4)).astype(np.float32)
    graph = graph_of_text(
        """(float[batch, 1, 2, 2] x, int64[batch] label) => (float[batch, 1, 4, 4] y)
        { row = Gather(table, label) wide = Resize<mode="nearest">(x, , scales) y = Add(wide, row) }""",
        table=table,
        scales=np.array([1, 1, 2, 2], np.float32),
    )
    x, label = RNG.standard_normal((2, 1, 2, 2), np.float32), np.array([0, 2])
    found = run(round_to(graph, FLOAT16), {"x": x, "label": label})["y"]
    np.testing.assert_array_equal(found, half(half(x).repeat(2, 2).repeat(2, 3) + half(table)[label]))


IMAGE = "(float[batch, 2, 5, 5] x) => (float[batch, 3, 5, 5] y)"


def test_the_bias_of_a_conv_becomes_an_add_after_it() -> None:
    weights = {"w": RNG.standard_normal((3, 2, 3, 3)), "b": RNG.standard_normal(3)}
    text = f"{IMAGE} {{ y = Conv<pads=[1, 1, 1, 1], kernel_shape=[3, 3]>(x, w, b) }}"
    after = assert_rewritten(separate_bias, text, "Conv Add", 1e-6, **weights)
    assert all(len(n.inputs) == 2 for n in after.nodes) and after.constants["y_bias"].shape == (1, 3, 1, 1)


def test_a_conv_without_bias_stays() -> None:
    text = f"{IMAGE} {{ y = Conv<kernel_shape=[1, 1]>(x, w) }}"
    assert_rewritten(separate_bias, text, None, w=RNG.standard_normal((3, 2, 1, 1)))
