import numpy as np

from fewstep.graph.graph import Graph
from fewstep.graph.passes.attention import simplify_attention
from fewstep.graph.passes.constants import drop_unused
from tests.graph.small import assert_same, node, small, value


def attention() -> Graph:
    """Two heads of four channels over six tokens, as torch.onnx writes scaled_dot_product_attention."""
    axes = {f"int_{i}": np.int64([i]) for i in range(4)}
    return small(
        [value("qkv", 3, "batch", 2, 6, 4)],
        [value("y", "batch", 2, 6, 4)],
        [
            node("Slice", "qkv int_0 int_1 int_0", "q5"),
            node("Squeeze", "q5 int_0", "q"),
            node("Slice", "qkv int_1 int_2 int_0", "k5"),
            node("Squeeze", "k5 int_0", "k"),
            node("Slice", "qkv int_2 int_3 int_0", "v5"),
            node("Squeeze", "v5 int_0", "v"),
            node("Reshape", "k merged", "k3"),
            node("Transpose", "k3", "k3t", perm=[0, 2, 1]),
            node("Reshape", "k3t heads", "kt"),
            node("Mul", "q root", "q_scaled"),
            node("Mul", "kt root", "k_scaled"),
            node("MatMul", "q_scaled k_scaled", "scores"),
            node("Softmax", "scores", "weights", axis=-1),
            node("MatMul", "weights v", "y"),
        ],
        merged=np.int64([-1, 6, 4]),
        heads=np.int64([-1, 2, 4, 6]),
        root=np.sqrt(0.5),
        **axes,
    )


def test_attention_has_the_operations_it_needs_and_no_others() -> None:
    before = attention()
    after = drop_unused(simplify_attention(before))
    assert after.ops() == ("Gather", "Gather", "Gather", "Transpose", "Mul", "MatMul", "Softmax", "MatMul")
    assert_same(before, after, rtol=1e-6)


def test_a_slice_of_two_is_no_index() -> None:
    before = small(
        [value("x", "batch", 2, 3)],
        [value("y", "batch", 1, 3)],
        [node("Slice", "x start end axis", "a"), node("ReduceSum", "a axis", "y", keepdims=1)],
        start=np.int64([0]),
        end=np.int64([2]),
        axis=np.int64([1]),
    )
    assert simplify_attention(before).nodes == before.nodes


def test_a_scale_that_divides_is_one_too() -> None:
    before = small(
        [value("q", "batch", 6, 4), value("k", "batch", 4, 6)],
        [value("y", "batch", 6, 6)],
        [
            node("Mul", "q root", "q_scaled"),
            node("Div", "k four", "k_scaled"),
            node("MatMul", "q_scaled k_scaled", "y"),
        ],
        root=np.sqrt(0.5),
        four=np.float32(4),
    )
    after = drop_unused(simplify_attention(before))
    assert after.ops() == ("Mul", "MatMul")
    assert_same(before, after, rtol=1e-6)
