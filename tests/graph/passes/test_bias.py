import numpy as np

from fewstep.graph.passes.bias import separate_bias
from fewstep.graph.passes.constants import drop_unused
from tests.graph.small import assert_same, node, small, value

RNG = np.random.default_rng(0)


def test_the_bias_of_a_conv_becomes_an_add_behind_it() -> None:
    before = small(
        [value("x", "batch", 2, 5, 5)],
        [value("y", "batch", 3, 5, 5)],
        [node("Conv", "x w b", "y", pads=[1, 1, 1, 1], kernel_shape=[3, 3])],
        w=RNG.standard_normal((3, 2, 3, 3)).astype(np.float32),
        b=RNG.standard_normal(3).astype(np.float32),
    )
    after = drop_unused(separate_bias(before))
    assert after.ops() == ("Conv", "Add") and all(len(n.inputs) == 2 for n in after.nodes)
    assert after.constants["y_bias"].shape == (1, 3, 1, 1)
    assert_same(before, after, rtol=1e-6)


def test_a_conv_without_bias_stays() -> None:
    graph = small(
        [value("x", "batch", 2, 5, 5)],
        [value("y", "batch", 3, 5, 5)],
        [node("Conv", "x w", "y", kernel_shape=[1, 1])],
        w=RNG.standard_normal((3, 2, 1, 1)).astype(np.float32),
    )
    assert separate_bias(graph).nodes == graph.nodes
