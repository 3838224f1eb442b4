import numpy as np

from fewstep.graph.passes.concat import split_concat
from fewstep.graph.passes.constants import drop_unused
from tests.graph.small import assert_same, node, small, value

RNG = np.random.default_rng(0)


def weights(*shape: int) -> np.ndarray:
    return RNG.standard_normal(shape).astype(np.float32)


def test_a_conv_of_three_sources_becomes_three_convs() -> None:
    before = small(
        [value(name, "batch", channels, 5, 5) for name, channels in (("a", 2), ("b", 3), ("c", 1))],
        [value("y", "batch", 4, 5, 5)],
        [
            node("Concat", "a b c", "all", axis=1),
            node("Conv", "all w bias", "y", pads=[1, 1, 1, 1], kernel_shape=[3, 3]),
        ],
        w=weights(4, 6, 3, 3),
        bias=weights(4),
    )
    after = drop_unused(split_concat(before))
    assert after.ops() == ("Conv", "Conv", "Add", "Conv", "Add")
    assert sum(len(n.inputs) == 3 for n in after.nodes if n.op == "Conv") == 1  # the bias is added once
    assert_same(before, after, rtol=1e-6)


def test_a_matmul_of_two_sources_becomes_two() -> None:
    before = small(
        [value("a", "batch", 7, 2), value("b", "batch", 7, 3)],
        [value("y", "batch", 7, 4)],
        [node("Concat", "a b", "all", axis=-1), node("MatMul", "all w", "y")],
        w=weights(5, 4),
    )
    after = drop_unused(split_concat(before))
    assert after.ops() == ("MatMul", "MatMul", "Add")
    assert_same(before, after, rtol=1e-6)


def test_a_concat_of_other_axes_and_a_grouped_conv_stay() -> None:
    conv = {"pads": [1, 1, 1, 1], "kernel_shape": [3, 3]}
    rows = small(
        [value("a", "batch", 2, 5, 5), value("b", "batch", 2, 5, 5)],
        [value("y", "batch", 4, 10, 5)],
        [node("Concat", "a b", "all", axis=2), node("Conv", "all w", "y", **conv)],
        w=weights(4, 2, 3, 3),
    )
    grouped = small(
        [value("a", "batch", 2, 5, 5), value("b", "batch", 2, 5, 5)],
        [value("y", "batch", 4, 5, 5)],
        [node("Concat", "a b", "all", axis=1), node("Conv", "all w", "y", group=2, **conv)],
        w=weights(4, 2, 3, 3),
    )
    for graph in (rows, grouped):
        assert split_concat(graph).nodes == graph.nodes
