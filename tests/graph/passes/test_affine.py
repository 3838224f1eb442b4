import numpy as np

from fewstep.graph.index import index
from fewstep.graph.passes.affine import merge_affine
from fewstep.graph.passes.constants import drop_unused
from tests.graph.small import assert_same, node, small, value

RNG = np.random.default_rng(0)
CHANNELS = {name: RNG.standard_normal((3, 1, 1)).astype(np.float32) for name in ("gain", "bias")}


def test_adaptive_scale_and_shift_take_up_those_of_the_normalisation() -> None:
    before = small(
        [value("x", "batch", 3, 4, 4), value("scale", "batch", 3, 1, 1), value("shift", "batch", 3, 1, 1)],
        [value("y", "batch", 3, 4, 4)],
        [
            node("Tanh", "x", "n"),
            node("Mul", "n gain", "a"),
            node("Add", "a bias", "b"),
            node("Mul", "b scale", "c"),
            node("Add", "c shift", "y"),
        ],
        **CHANNELS,
    )
    after = before
    for _ in range(4):
        after = drop_unused(merge_affine(after))
    moving = index(after).reachable(["x"])
    hot = [n.op for n in after.nodes if not moving.isdisjoint(n.inputs)]
    assert sorted(hot) == ["Add", "Mul", "Tanh"]
    assert_same(before, after, rtol=1e-6)


def test_a_value_that_something_else_reads_stays() -> None:
    before = small(
        [value("x", "batch", 3, 4, 4), value("scale", "batch", 3, 1, 1)],
        [value("a", "batch", 3, 4, 4), value("y", "batch", 3, 4, 4)],
        [node("Mul", "x gain", "a"), node("Mul", "a scale", "y")],
        gain=CHANNELS["gain"],
    )
    assert merge_affine(before).nodes == before.nodes


def test_small_factors_do_not_become_a_large_one() -> None:
    before = small(
        [value("x", "batch", 3, 4, 4), value("plane", "batch", 1, 4, 4)],
        [value("y", "batch", 3, 4, 4)],
        [node("Mul", "x gain", "a"), node("Mul", "a plane", "y")],
        gain=CHANNELS["gain"],
    )
    assert merge_affine(before).nodes == before.nodes
