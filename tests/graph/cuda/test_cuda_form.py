"""The form for ONNX Runtime's CUDA provider: the same function, in fewer kernels."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from fewstep.graph.cuda.contrib_norm import LARGEST_GROUP
from fewstep.graph.cuda.contrib_norm_definition import expand_contrib_norms
from fewstep.graph.cuda.cuda_form import FormSize, cuda_form, form_size, has_long_attention
from fewstep.graph.files import io
from fewstep.graph.graph import Graph, Node
from fewstep.graph.half_types import FLOAT16
from fewstep.graph.passes.half import to_half
from fewstep.graph.session import run
from fewstep.runtime.bundle.reading import open_bundle
from tests.graph.small_graphs import assert_close, assert_same, feeds, node, value
from tests.onnx_text import graph_of_text

SIDES = (6, 5)
RANDOM = np.random.default_rng(3)


def assert_same_form(before: Graph, rtol: float = 1e-6) -> Graph:
    """Return the form, after checking that its outputs are the same."""
    after = cuda_form(before)
    assert_same(before, expand_contrib_norms(after), rtol)
    return after


def network(sides: tuple[int, ...] = SIDES, channels: int = 8, groups: int = 2, tail: str = "y = Identity(n)") -> Graph:
    """A convolution, the exported GroupNorm `n` of its result, and a tail that ends in `y`."""
    width = channels // groups * int(np.prod(sides))
    ones = (1,) * len(sides)
    return graph_of_text(
        f"""(float[batch, 3, {", ".join(map(str, sides))}] x, float[batch, {channels}, {", ".join(map(str, ones))}] row)
            => (float[batch, {channels}, {", ".join(map(str, sides))}] y) {{
            c = Conv <pads = [{", ".join(["1"] * 2 * len(sides))}]> (x, weight) b = Add(c, bias)
            g = Reshape(b, groups) i = InstanceNormalization <epsilon = 0.01> (g, scales, shifts) r = Reshape(i, whole)
            m = Mul(r, gamma) n = Add(beta, m) {tail}
        }}""",
        weight=RANDOM.standard_normal((channels, 3, *(3,) * len(sides))).astype(np.float32),
        bias=RANDOM.standard_normal((1, channels, *ones)).astype(np.float32),
        groups=np.int64([0, groups, width]),
        whole=np.int64([0, channels, *sides]),
        scales=np.linspace(0.5, 2, groups, dtype=np.float32),
        shifts=np.linspace(-1, 1, groups, dtype=np.float32),
        gamma=RANDOM.standard_normal((channels, *ones)).astype(np.float32),
        beta=RANDOM.standard_normal((channels, *ones)).astype(np.float32),
    )


def norms(graph: Graph) -> list[Node]:
    return [each for each in graph.nodes if each.op == "GroupNorm"]


@pytest.mark.parametrize("sides", [SIDES, (7,)], ids=["image", "sequence"])
@pytest.mark.parametrize(("tail", "activation"), [("y = Identity(n)", 0), ("s = Sigmoid(n) y = Mul(s, n)", 1)])
def test_norm_affine_map_and_silu_are_one_operation(sides: tuple[int, ...], tail: str, activation: int) -> None:
    before = network(sides, tail=tail)
    after = assert_same_form(before)
    (norm,) = norms(after)
    expected = {"groups": 2, "activation": activation, "channels_last": 1, "epsilon": pytest.approx(0.01)}
    assert norm.attributes == expected
    assert form_size(before).kernels == 5 + 2 * activation
    assert form_size(after).kernels == 3  # the convolution, the norm, and the Transpose of the output


def test_gamma_and_beta_multiply_the_scales_of_groups() -> None:
    before = network()
    (norm,) = norms(cuda_form(before))
    gamma, beta = (cuda_form(before).constants[name] for name in norm.inputs[1:])
    scale, shift = (np.repeat(before.constants[name], 4) for name in ("scales", "shifts"))
    np.testing.assert_array_equal(gamma, scale * before.constants["gamma"].reshape(-1))
    np.testing.assert_array_equal(
        beta, shift * before.constants["gamma"].reshape(-1) + before.constants["beta"].reshape(-1)
    )


@pytest.mark.parametrize("sides", [SIDES, (7,)], ids=["image", "sequence"])
def test_a_scale_of_each_sample_follows_the_norm(sides: tuple[int, ...]) -> None:
    after = assert_same_form(network(sides, tail="p = Mul(n, row) y = Sigmoid(p)"))
    assert [each.op for each in after.nodes if each.op in ("GroupNorm", "Mul", "Sigmoid", "Transpose")] == [
        "Transpose",  # of the convolution, which onnxruntime cancels
        "GroupNorm",
        "Mul",
        "Sigmoid",
        "Transpose",  # the graph's output has channels first
    ]


TAILS = {
    "concat of channels": ("a = Tanh(n) c2 = Concat <axis = 1> (n, a) y = Conv(c2, mix)", 1),
    "concat of rows": ("a = Tanh(n) c2 = Concat <axis = 2> (n, a) y = MaxPool <kernel_shape = [7, 1]> (c2)", 1),
    "resize": ("u = Resize <mode = \"nearest\"> (n, , factors) y = AveragePool <kernel_shape = [7, 6]> (u)", 1),
    "a sum with what has channels first": ("a = Softmax <axis = 2> (n) y = Add(n, a)", 3),
    "tokens": ("f = Reshape(n, flat) t = Transpose <perm = [0, 2, 1]> (f) w = MatMul(t, square)"
               " b2 = Transpose <perm = [0, 2, 1]> (w) d = Reshape(b2, whole) y = Add(n, d)", 1),
    "channels last as written": ("t = Transpose <perm = [0, 2, 3, 1]> (n) w = MatMul(t, square)"
                                 " d = Transpose <perm = [0, 3, 1, 2]> (w) y = Add(n, d)", 1),
}  # fmt: skip


@pytest.mark.parametrize(("tail", "transposes"), TAILS.values(), ids=TAILS)
def test_other_operations_keep_channels_last(tail: str, transposes: int) -> None:
    """The remaining Transposes are those of the output, and of operations that read channels first."""
    before = network(tail=tail)
    constants = {
        "mix": RANDOM.standard_normal((8, 16, 1, 1)).astype(np.float32),
        "square": RANDOM.standard_normal((8, 8)).astype(np.float32),
        "factors": np.float32([1, 1, 2, 2]),
        "flat": np.int64([0, 8, 30]),
    }
    used = {name for each in before.nodes for name in each.inputs}
    known = {name: constant for name, constant in constants.items() if name in used}
    after = assert_same_form(replace(before, constants={**before.constants, **known}), rtol=3e-6)
    assert len(norms(after)) == 1 and form_size(after).transposes == transposes


def with_constants(graph: Graph, **constants: object) -> Graph:
    return replace(
        graph, constants={**graph.constants, **{name: np.asarray(constant) for name, constant in constants.items()}}
    )


@pytest.mark.parametrize("sizes", [[0, 0, 0, -1], [0, 8, 0, 1], [0, 8, 7, 1], [0, -1, 7, 1]], ids=str)
def test_a_reshape_of_a_sequence_to_an_image_copies_no_size_of_another_axis(sizes: list[int]) -> None:
    """A zero in its sizes stands for a size of the sequence [B, C, L]; the form's sequence has another axis there."""
    before = network((7,), tail="q = Reshape(n, four) a = Conv <pads = [1, 0, 1, 0]> (q, mix) y = Reshape(a, three)")
    mix = RANDOM.standard_normal((8, 8, 3, 1)).astype(np.float32)
    before = with_constants(before, four=np.int64(sizes), three=np.int64([0, 8, 7]), mix=mix)
    assert len(norms(assert_same_form(before, rtol=3e-6))) == 1


def test_the_second_of_two_transposes_to_channels_last_reads_the_same_tensor() -> None:
    before = network(
        tail="""q = Transpose <perm = [0, 2, 3, 1]> (n) f = Transpose <perm = [0, 3, 1, 2]> (q)
        h = Tanh(f) p = Transpose <perm = [0, 2, 3, 1]> (f) w = MatMul(p, square)
        z = Transpose <perm = [0, 3, 1, 2]> (w) y = Add(h, z)"""
    )
    square = RANDOM.standard_normal((8, 8)).astype(np.float32)
    after = assert_same_form(with_constants(before, square=square), rtol=3e-6)
    (norm,) = norms(after)
    assert all(norm.output in each.inputs for each in after.nodes if each.op in ("Tanh", "MatMul"))


def test_a_transpose_without_axes_reverses_them() -> None:
    before = network(tail="f = Reshape(n, flat) t = Transpose(f) a = Tanh(t) z = Transpose(a) y = Reshape(z, whole)")
    assert len(norms(assert_same_form(with_constants(before, flat=np.int64([0, 8, 30]))))) == 1


def test_an_empty_constant_of_a_resize_is_no_input() -> None:
    tail = 'u = Resize <mode = "nearest"> (n, , empty, sizes) y = AveragePool <kernel_shape = [7, 6]> (u)'
    before = with_constants(network(tail=tail), empty=np.float32([]), sizes=np.int64([2, 8, 12, 10]))
    after = cuda_form(before)
    (resize,) = (each for each in after.nodes if each.op == "Resize")
    assert resize.inputs[2] == "" and after.constants[resize.inputs[3]].tolist() == [2, 12, 10, 8]
    given = feeds(before, 2)
    assert_close(run(before, given), run(expand_contrib_norms(after), given), 3e-6)


@pytest.mark.parametrize("channels", [2, 6, 2 * LARGEST_GROUP + 4], ids=["one", "odd", "many"])
def test_groups_that_the_kernel_refuses_stay(channels: int) -> None:
    """Groups of one channel, of three, and of more than a block of the kernel has."""
    before = network(channels=channels)
    assert cuda_form(before).nodes == before.nodes


RESIDUAL = """d = Conv <pads = [1, 1, 1, 1]> (n, again) e = Add(d, bias) s = Add({sum})
    g2 = Reshape(s, groups) i2 = InstanceNormalization <epsilon = 0.01> (g2, scales, shifts) r2 = Reshape(i2, whole) """


@pytest.mark.parametrize("operands", ["e, b", "b, e"])
@pytest.mark.parametrize(("tail", "outputs"), [("y = Tanh(r2)", 1), ("y = Add(r2, s)", 2)], ids=["read once", "again"])
def test_the_norm_of_a_residual_adds_it_and_the_bias(operands: str, tail: str, outputs: int) -> None:
    before = network(tail=RESIDUAL.format(sum=operands) + tail)
    again = RANDOM.standard_normal((8, 8, 3, 3)).astype(np.float32)
    after = assert_same_form(replace(before, constants={**before.constants, "again": again}), rtol=3e-6)
    (skip,) = (each for each in after.nodes if each.op == "SkipGroupNorm")
    assert (len(skip.inputs), len(skip.outputs), after.constants[skip.inputs[4]].shape) == (5, outputs, (8,))
    assert [len(each.inputs) for each in after.nodes if each.op == "Conv"] == [3, 2]  # the second without its bias
    assert len(norms(after)) == 1


def test_a_convolution_that_others_read_keeps_its_bias() -> None:
    before = network(tail=RESIDUAL.format(sum="b, e") + "t = Tanh(e) y = Add(r2, t)")
    again = RANDOM.standard_normal((8, 8, 3, 3)).astype(np.float32)
    after = assert_same_form(replace(before, constants={**before.constants, "again": again}), rtol=3e-6)
    (skip,) = (each for each in after.nodes if each.op == "SkipGroupNorm")
    assert len(skip.inputs) == 4 and [len(each.inputs) for each in after.nodes if each.op == "Conv"] == [3, 3]


def test_a_sum_with_a_row_of_each_sample_stays() -> None:
    before = network(tail=RESIDUAL.format(sum="e, row") + "y = Tanh(r2)")
    again = RANDOM.standard_normal((8, 8, 3, 3)).astype(np.float32)
    after = assert_same_form(replace(before, constants={**before.constants, "again": again}), rtol=3e-6)
    assert len(norms(after)) == 2 and "SkipGroupNorm" not in after.ops()


QKV = """(float[batch, 5, 12] x) => (float[batch, 5, 4] y) {{
    r = Reshape(x, five) p = Transpose <perm = [2, 0, 3, 1, 4]> (r)
    q = Gather <axis = 0> (p, zero) k = Gather <axis = 0> (p, one) v = Gather <axis = 0> (p, two)
    t = Transpose <perm = [0, 1, 3, 2]> (k) a = Mul(q, scale) s = MatMul(a, t) {between}
    o = MatMul(w, v) j = Transpose <perm = [0, 2, 1, 3]> (o) y = Reshape(j, whole)
}}"""
PARTS = {"five": np.int64([0, 5, 3, 2, 2]), "whole": np.int64([0, 5, 4]), "zero": np.int64(0), "one": np.int64(1)}


def attention_of_parts(between: str = "w = Softmax <axis = -1> (s)") -> Graph:
    return graph_of_text(QKV.format(between=between), **PARTS, two=np.int64(2), scale=np.float32(0.7))


def test_parts_of_one_product_are_a_split_and_one_attention() -> None:
    after = assert_same_form(attention_of_parts())
    assert after.ops() == ("Split", "MultiHeadAttention")
    assert after.nodes[1].attributes == {"num_heads": 2, "scale": pytest.approx(0.7)}


def test_a_scale_of_the_scores_is_part_of_the_attention() -> None:
    after = assert_same_form(attention_of_parts("h = Div(s, scale) w = Softmax <axis = -1> (h)"))
    assert after.nodes[1].attributes["scale"] == pytest.approx(1.0)


@pytest.mark.parametrize(
    ("keys", "is_long"),
    [(("1024",), True), (("1023",), False), (("1024", "77"), True), (("1024", "77", "77"), False), (("n",), False)],
    ids=str,
)
def test_attention_is_long_if_half_of_it_has_many_keys(keys: tuple[str, ...], is_long: bool) -> None:
    inputs = ", ".join(f"float[batch, {key}, 8] k{number}" for number, key in enumerate(keys))
    lines, last = [], "x"
    for number in range(len(keys)):
        lines.append(
            f"t{number} = Transpose <perm = [0, 2, 1]> (k{number}) s{number} = MatMul({last}, t{number}) "
            f"p{number} = Softmax <axis = -1> (s{number}) y{number} = MatMul(p{number}, k{number})"
        )
        last = f"y{number}"
    text = f"(float[batch, 4, 8] x, {inputs}) => (float[batch, 4, 8] {last}) {{ {' '.join(lines)} }}"
    graph = graph_of_text(text)
    assert has_long_attention(graph, cuda_form(graph)) is is_long


def test_a_softmax_of_another_axis_stays() -> None:
    before = attention_of_parts("w = Softmax <axis = 2> (s)")
    assert cuda_form(before).ops() == before.ops()


def test_a_part_of_a_product_is_split_before_the_first_attention_that_reads_it() -> None:
    """The softmax of one attention comes first, and the product of the other."""
    before = graph_of_text(
        """(float[batch, 5, 12] x) => (float[batch, 5, 4] y, float[batch, 5, 4] z) {
            r = Reshape(x, five) p = Transpose <perm = [2, 0, 3, 1, 4]> (r)
            q = Gather <axis = 0> (p, zero) k = Gather <axis = 0> (p, one) v = Gather <axis = 0> (p, two)
            t = Transpose <perm = [0, 1, 3, 2]> (k) s = MatMul(q, t) w = Softmax(s)
            t2 = Transpose <perm = [0, 1, 3, 2]> (q) s2 = MatMul(k, t2) w2 = Softmax(s2)
            o2 = MatMul(w2, v) j2 = Transpose <perm = [0, 2, 1, 3]> (o2) z = Reshape(j2, whole)
            o = MatMul(w, v) j = Transpose <perm = [0, 2, 1, 3]> (o) y = Reshape(j, whole)
        }""",
        **PARTS,
        two=np.int64(2),
    )
    assert assert_same_form(before).ops() == ("Split", "MultiHeadAttention", "MultiHeadAttention")


@pytest.mark.parametrize(
    ("text", "ops"),
    [
        ("t = Transpose(k) s = MatMul(q, t) w = Softmax(s) y = MatMul(w, v)", 1),
        ("s = MatMul(q, k) w = Softmax(s) o = MatMul(w, v) y = Transpose(o)", 1),
    ],
    ids=["of the keys", "of the mixture"],
)
def test_attention_next_to_a_transpose_without_axes(text: str, ops: int) -> None:
    shapes = {"k": "3, 4, 2, batch"} if "(k)" in text else {"k": "batch, 2, 4, 3"}
    result = "5, 5, 2, batch" if "(o)" in text else "batch, 2, 5, 5"
    before = graph_of_text(
        f"""(float[batch, 2, 5, 4] q, float[{shapes["k"]}] k, float[batch, 2, 3, 5] v) => (float[{result}] y)
        {{ {text} }}"""
    )
    assert assert_same_form(before).ops().count("MultiHeadAttention") == ops


CROSS = """(float[batch, 4, 6] x, float[batch, 2, 3, 7] k, float[batch, 2, 7, 3] v) => (float[batch, 2, 4, 3] y) {
    r = Reshape(x, apart) q = Transpose <perm = [0, 2, 1, 3]> (r) s = MatMul(q, k) w = Softmax(s) y = MatMul(w, v)
}"""


def test_keys_and_values_of_another_graph_are_turned() -> None:
    """As rows of a prologue: the keys are already transposed."""
    before = graph_of_text(CROSS, apart=np.int64([0, 4, 2, 3]))
    after = assert_same_form(before)
    assert form_size(after) == FormSize(norms=0, attentions=1, transposes=3, kernels=4)


def test_one_head_of_three_axes() -> None:
    before = graph_of_text(
        """(float[batch, 4, 6] q, float[batch, 6, 5] k, float[batch, 5, 3] v) => (float[batch, 4, 3] y) {
            a = Div(q, four) s = MatMul(a, k) w = Softmax(s) y = MatMul(w, v) }""",
        four=np.float32(4),
    )
    after = assert_same_form(before)
    assert after.ops() == ("Transpose", "MultiHeadAttention")
    assert after.nodes[1].attributes == {"num_heads": 1, "scale": 0.25}


def test_queries_of_one_batch_for_all_stay() -> None:
    """MultiHeadAttention has no broadcast."""
    before = graph_of_text(
        "(float[1, 4, 6] q, float[batch, 6, 5] k, float[batch, 5, 3] v) => (float[batch, 4, 3] y) "
        "{ s = MatMul(q, k) w = Softmax(s) y = MatMul(w, v) }"
    )
    assert cuda_form(before).ops() == before.ops()


def test_a_norm_whose_parts_are_read_elsewhere_keeps_them() -> None:
    before = network()
    before = replace(before, outputs=(*before.outputs, value("m", "batch", 8, *SIDES)))
    after = assert_same_form(before)
    assert [each.op for each in after.nodes if each.op in ("GroupNorm", "Mul", "Add")] == ["GroupNorm", "Add"]
    before = replace(before, outputs=(*before.outputs, value("i", "batch", 2, 120)))
    assert cuda_form(before).ops() == before.ops()


def test_the_reference_is_the_definition() -> None:
    """Mean and variance over positions and the channels of a group, by numpy."""
    graph = Graph(
        "g",
        (value("x", "batch", 2, 3, 6),),
        (value("y", "batch", 2, 3, 6),),
        (replace(node("GroupNorm", "x gamma beta", "y", groups=3, activation=1, channels_last=1, epsilon=0.5),
                 domain="com.microsoft"),),
        {"gamma": np.arange(6, dtype=np.float32), "beta": np.linspace(-1, 1, 6, dtype=np.float32)},
    )  # fmt: skip
    given = feeds(graph, 2)
    groups = given["x"].astype(np.float64).reshape(2, 6, 3, 2)
    normal = (groups - groups.mean((1, 3), keepdims=True)) / np.sqrt(groups.var((1, 3), keepdims=True) + 0.5)
    affine = normal.reshape(2, 2, 3, 6) * graph.constants["gamma"] + graph.constants["beta"]
    expected = affine / (1 + np.exp(-affine))
    found = run(expand_contrib_norms(graph), given)["y"]
    np.testing.assert_allclose(found, expected, atol=1e-6)


@pytest.mark.slow
def test_the_shipped_denoiser_has_a_norm_in_one_kernel_and_no_transposes(exported_fashion_mnist: Path) -> None:
    bundle = open_bundle(exported_fashion_mnist)
    before = io.load(bundle.graph(bundle.body("float32").graph), root=bundle.path)
    after = cuda_form(before)
    assert form_size(before) == FormSize(norms=0, attentions=0, transposes=5, kernels=196)
    assert form_size(after) == FormSize(norms=20, attentions=1, transposes=1, kernels=112)
    given = feeds(before, 2)
    assert_close(run(before, given), run(expand_contrib_norms(after), given), 1e-6)


def test_the_shipped_denoiser_in_float16_differs_by_rounding(exported_fashion_mnist: Path) -> None:
    bundle = open_bundle(exported_fashion_mnist)
    exact = io.load(bundle.graph(bundle.body("float32").graph), root=bundle.path)
    before = to_half(exact, FLOAT16)
    after = cuda_form(before)
    assert form_size(after).norms == 20 and form_size(before).kernels - form_size(after).kernels == 84
    given = feeds(exact, 2)
    assert_close(run(exact, given), run(expand_contrib_norms(after), given), 2e-3)
