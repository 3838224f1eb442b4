"""Attention as [batch, heads, tokens, width], weights times values."""

from pathlib import Path

import numpy as np
import pytest

from fewstep.graph.graph import Graph, Node
from fewstep.graph.half_types import FLOAT16
from fewstep.graph.passes.attention_form import form_attention
from fewstep.graph.prepare import simplify
from tests.graph.small import assert_same, node, small, value


def attention(*nodes: Node, **constants: object) -> Graph:
    """Six tokens of width 4 from q [b, n, d], k [b, d, n] and v."""
    v = value("v", "batch", 4, 6) if any(each.op == "Transpose" for each in nodes) else value("v", "batch", 6, 4)
    out = v.shape
    inputs = [value("q", "batch", 6, 4), value("k", "batch", 4, 6), v]
    return small(inputs, [value("y", *out)], list(nodes), **constants)


def test_attention_of_three_axes_gets_one_of_heads() -> None:
    before = attention(
        node("MatMul", "q k", "scores"), node("Softmax", "scores", "w", axis=2), node("MatMul", "w v", "y")
    )
    after = form_attention(before)
    assert sorted(after.ops()) == ["MatMul"] * 2 + ["Softmax", "Squeeze"] + ["Unsqueeze"] * 3
    assert next(each for each in after.nodes if each.op == "Softmax").attributes["axis"] == -1
    assert_same(before, after)
    assert form_attention(after).nodes == after.nodes


def test_a_number_may_scale_the_scores() -> None:
    before = attention(
        node("MatMul", "q k", "scores"),
        node("Mul", "scores half", "scaled"),
        node("Softmax", "scaled", "w"),
        node("MatMul", "w v", "y"),
        half=0.5,
    )
    after = form_attention(before)
    assert after.ops().count("Unsqueeze") == 3
    assert_same(before, after)


@pytest.mark.parametrize("heads", [False, True])
def test_weights_are_not_turned_around(heads: bool) -> None:
    """As published EDM networks have it, on channels by tokens."""
    shape = ("batch", 2) if heads else ("batch",)
    rank = len(shape) + 2
    perm = [*range(rank - 2), rank - 1, rank - 2]
    before = small(
        [value("q", *shape, 6, 4), value("k", *shape, 4, 6), value("v", *shape, 4, 6)],
        [value("y", *shape, 4, 6)],
        [
            node("MatMul", "q k", "scores"),
            node("Softmax", "scores", "w", axis=-1),
            node("Transpose", "w", "turned", perm=perm),
            node("MatMul", "v turned", "y"),
        ],
    )
    after = simplify(before)
    made = [each for each in after.nodes if each.op in ("MatMul", "Softmax", "Transpose")]
    assert [each.op for each in made] == ["MatMul", "Softmax", "Transpose", "MatMul", "Transpose"] or not heads
    assert made[-2].op == "MatMul" and made[-2].inputs[0] in {each.output for each in made if each.op == "Softmax"}
    assert_same(before, after, rtol=1e-6)


@pytest.mark.parametrize(
    "nodes",
    [
        [node("MatMul", "q k", "s"), node("Softmax", "s", "w", axis=1), node("MatMul", "w v", "y")],
        [node("Softmax", "q", "w"), node("MatMul", "w k", "x1"), node("MatMul", "x1 v", "y")],
        [node("MatMul", "q k", "s"), node("Add", "s s", "t"), node("Softmax", "t", "w"), node("MatMul", "w v", "y")],
    ],
    ids=["over-the-other-axis", "no-attention", "a-mask"],
)
def test_what_is_no_such_attention_stays(nodes: list[Node]) -> None:
    before = attention(*nodes)
    assert form_attention(before).nodes == before.nodes


def _engine(graph: Graph, folder: Path) -> bytes:
    """What TensorRT-RTX makes of the graph in float16, for one GPU that is not here."""
    trt = pytest.importorskip("tensorrt_rtx", reason="tensorrt-rtx is not installed")
    from fewstep.graph.io import save
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
    rng = np.random.default_rng(0)
    before = small(
        [value("x", "batch", 64, 16, 16)],
        [value("y", "batch", 64, 16, 16)],
        [
            node("Conv", "x weight", "channels"),
            node("Reshape", "channels heads", "merged"),
            *(node("Gather", f"merged place_{i}", name, axis=2) for i, name in enumerate("qkv")),
            node("Mul", "q scale", "scaled"),
            node("Transpose", "scaled", "rows", perm=[0, 2, 1]),
            node("MatMul", "rows k", "scores"),
            node("Softmax", "scores", "weights", axis=-1),
            node("Transpose", "weights", "turned", perm=[0, 2, 1]),
            node("MatMul", "v turned", "attended"),
            node("Reshape", "attended image", "y"),
        ],
        weight=rng.standard_normal((192, 64, 1, 1)) / 8,
        heads=np.array([-1, 32, 3, 256]),
        image=np.array([-1, 64, 16, 16]),
        scale=32**-0.5,
        **{f"place_{i}": np.array(i) for i in range(3)},
    )
    after = simplify(before)
    assert_same(before, after, rtol=1e-5)
    assert b"mha" not in _engine(before, tmp_path)
    assert b"mha" in _engine(after, tmp_path)
