"""Attention with the fewest operations, and as [batch, heads, tokens, width], weights times values."""

from pathlib import Path

import numpy as np
import pytest

from fewstep.graph.graph import Graph
from fewstep.graph.half_types import FLOAT16
from fewstep.graph.passes.attention import simplify_attention
from fewstep.graph.passes.attention_form import form_attention
from fewstep.graph.prepare import simplify
from tests.graph.small_graphs import assert_rewritten, assert_same
from tests.onnx_text import graph_of_text


def test_attention_has_the_operations_it_needs_and_no_others() -> None:
    """Two heads of four channels over six tokens, as torch.onnx writes scaled_dot_product_attention."""
    text = """(float[3, batch, 2, 6, 4] qkv) => (float[batch, 2, 6, 4] y) {
        q5 = Slice(qkv, int_0, int_1, int_0) q = Squeeze(q5, int_0)
        k5 = Slice(qkv, int_1, int_2, int_0) k = Squeeze(k5, int_0)
        v5 = Slice(qkv, int_2, int_3, int_0) v = Squeeze(v5, int_0)
        k3 = Reshape(k, merged)
        k3t = Transpose<perm=[0, 2, 1]>(k3)
        kt = Reshape(k3t, heads)
        q_scaled = Mul(q, root)
        k_scaled = Mul(kt, root)
        scores = MatMul(q_scaled, k_scaled)
        weights = Softmax<axis=-1>(scores)
        y = MatMul(weights, v)
    }"""
    axes = {f"int_{i}": np.int64([i]) for i in range(4)}
    shapes = {"merged": np.int64([-1, 6, 4]), "heads": np.int64([-1, 2, 4, 6])}
    ops = "Gather Gather Gather Transpose Mul MatMul Softmax MatMul"
    assert_rewritten(simplify_attention, text, ops, 1e-6, root=np.sqrt(0.5), **shapes, **axes)


@pytest.mark.parametrize(("end", "squeezed"), [(2, 1), (1, 2)], ids=["longer", "another-axis"])
def test_a_slice_of_more_or_of_another_axis_is_no_index(end: int, squeezed: int) -> None:
    text = (
        "(float[batch, 1, 1, 3] x) => (float[batch, 1, 3] y) { a = Slice(x, start, end, axis) y = Squeeze(a, place) }"
    )
    numbers = {"start": 0, "end": end, "axis": 1, "place": squeezed}
    assert_rewritten(simplify_attention, text, None, **{name: np.int64([number]) for name, number in numbers.items()})


def test_a_scale_that_divides_is_one_too() -> None:
    text = """(float[batch, 6, 4] q, float[batch, 4, 6] k) => (float[batch, 6, 6] y)
    { q_scaled = Mul(q, root) k_scaled = Div(k, four) y = MatMul(q_scaled, k_scaled) }"""
    assert_rewritten(simplify_attention, text, "Mul MatMul", 1e-6, root=np.sqrt(0.5), four=4.0)


TOKENS = (
    "(float[batch, 6, 4] q, float[batch, 4, 6] k, float[batch, 6, 4] v) => (float[batch, 6, 4] y)"  # six of width 4
)
FORMED = "Unsqueeze Unsqueeze MatMul {}Softmax Unsqueeze MatMul Squeeze"


@pytest.mark.parametrize(
    ("body", "scaled"),
    [
        ("s = MatMul(q, k) w = Softmax<axis=2>(s) y = MatMul(w, v)", ""),
        ("s = MatMul(q, k) t = Mul(s, half) w = Softmax(t) y = MatMul(w, v)", "Mul "),
    ],
    ids=["plain", "scaled"],
)
def test_attention_of_three_axes_gets_one_of_heads(body: str, scaled: str) -> None:
    after = assert_rewritten(form_attention, f"{TOKENS} {{ {body} }}", FORMED.format(scaled), half=0.5)
    assert next(node for node in after.nodes if node.op == "Softmax").attributes["axis"] == -1
    assert form_attention(after).nodes == after.nodes


@pytest.mark.parametrize("heads", ["", "2, "])
def test_weights_are_not_turned_around(heads: str) -> None:
    """As in published EDM networks, on channels by tokens."""
    q, k = f"[batch, {heads}6, 4]", f"[batch, {heads}4, 6]"
    perm = [0, 1, 3, 2] if heads else [0, 2, 1]
    before = graph_of_text(
        f"""(float{q} q, float{k} k, float{k} v) => (float{k} y)
        {{ s = MatMul(q, k) w = Softmax<axis=-1>(s) turned = Transpose<perm={perm}>(w) y = MatMul(v, turned) }}"""
    )
    after = simplify(before)
    made = [node for node in after.nodes if node.op in ("MatMul", "Softmax", "Transpose")]
    assert [node.op for node in made] == ["MatMul", "Softmax", "Transpose", "MatMul", "Transpose"] or not heads
    assert made[-2].op == "MatMul" and made[-2].inputs[0] in {node.output for node in made if node.op == "Softmax"}
    assert_same(before, after, rtol=1e-6)


@pytest.mark.parametrize(
    "body",
    [
        "s = MatMul(q, k) w = Softmax<axis=1>(s) y = MatMul(w, v)",
        "w = Softmax(q) x1 = MatMul(w, k) y = MatMul(x1, v)",
        "s = MatMul(q, k) t = Add(s, s) w = Softmax(t) y = MatMul(w, v)",
    ],
    ids=["over-the-other-axis", "no-attention", "a-mask"],
)
def test_what_is_no_such_attention_stays(body: str) -> None:
    assert_rewritten(form_attention, f"{TOKENS} {{ {body} }}", None)


def _engine(graph: Graph, folder: Path) -> bytes:
    """Return TensorRT-RTX's engine of the graph in float16, for one GPU that is not here."""
    trt = pytest.importorskip("tensorrt_rtx", reason="tensorrt-rtx is not installed")
    from fewstep.graph.files.io import save
    from fewstep.graph.passes.half import to_half

    save(to_half(graph, FLOAT16), folder / "graph.onnx")
    logger = trt.Logger(trt.Logger.ERROR)
    builder = trt.Builder(logger)
    network = builder.create_network(1 << int(trt.NetworkDefinitionCreationFlag.STRONGLY_TYPED))
    assert trt.OnnxParser(network, logger).parse_from_file(str(folder / "graph.onnx"))
    config = builder.create_builder_config()
    config.num_compute_capabilities = 1
    config.set_compute_capability(trt.ComputeCapability.SM89, 0)
    profile = builder.create_optimization_profile()
    for number in range(network.num_inputs):
        tensor = network.get_input(number)
        shape = [2 if size < 0 else size for size in tensor.shape]
        profile.set_shape(tensor.name, shape, shape, shape)
    config.add_optimization_profile(profile)
    return bytes(builder.build_serialized_network(network, config))


def test_tensorrt_makes_one_kernel_of_this_form_and_none_of_the_published_one(tmp_path: Path) -> None:
    """Two heads of 32 channels over 256 pixels, merged with the batch, as in networks after Dhariwal & Nichol."""
    before = graph_of_text(
        """(float[batch, 64, 16, 16] x) => (float[batch, 64, 16, 16] y) {
            channels = Conv(x, weight)
            merged = Reshape(channels, heads)
            q = Gather<axis=2>(merged, place_0) k = Gather<axis=2>(merged, place_1) v = Gather<axis=2>(merged, place_2)
            scaled = Mul(q, scale)
            rows = Transpose<perm=[0, 2, 1]>(scaled)
            scores = MatMul(rows, k)
            weights = Softmax<axis=-1>(scores)
            turned = Transpose<perm=[0, 2, 1]>(weights)
            attended = MatMul(v, turned)
            y = Reshape(attended, image)
        }""",
        weight=np.random.default_rng(0).standard_normal((192, 64, 1, 1)) / 8,
        heads=np.array([-1, 32, 3, 256]),
        image=np.array([-1, 64, 16, 16]),
        scale=32**-0.5,
        **{f"place_{i}": np.array(i) for i in range(3)},
    )
    after = simplify(before)
    assert_same(before, after, rtol=1e-5)
    assert b"mha" not in _engine(before, tmp_path)
    assert b"mha" in _engine(after, tmp_path)
