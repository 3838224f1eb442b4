"""Names that passes give: torch.export calls the second convolution conv2d_1, as a pass may want to call a part."""

import numpy as np

from fewstep.graph.additions import Additions
from fewstep.graph.graph import Array
from fewstep.graph.prepare import simplify
from tests.graph.small import assert_same, node, small, value

RNG = np.random.default_rng(0)


def weights(*shape: int) -> Array:
    return RNG.standard_normal(shape).astype(np.float32)


def test_a_name_is_given_once() -> None:
    graph = small([value("x", 2)], [value("y", 2)], [node("Add", "x a", "y")], a=1.0)
    new = Additions(graph)
    assert [new.name(wanted) for wanted in ("x", "y", "a", "b", "b", "b")] == ["x_2", "y_2", "a_2", "b", "b_2", "b_3"]


def test_constants_are_shared_by_value_and_never_replaced() -> None:
    graph = small([value("x", 2)], [value("y", 2)], [node("Add", "x a", "y")], a=1.0)
    new = Additions(graph)
    one, two, whole = np.float32(1), np.float32(2), np.int64(1)
    wanted = [("a", one), ("a", two), ("a", two), ("a", whole), ("x", one), ("b", one)]
    found = [new.constant(name, np.asarray(array)) for name, array in wanted]
    assert found == ["a", "a_2", "a_2", "a_3", "x_2", "b"]
    assert list(new.constants) == ["a_2", "a_3", "x_2", "b"]


def test_parts_of_a_split_are_not_called_as_another_tensor() -> None:
    before = small(
        [value("x", "batch", 2, 5, 5), value("image", "batch", 3, 5, 5)],
        [value("output", "batch", 4, 5, 5)],
        [
            node("Concat", "x image", "cat", axis=1),
            node("Conv", "cat w", "conv2d"),
            node("Relu", "conv2d", "relu"),
            node("Conv", "relu v", "conv2d_1"),
            node("Relu", "conv2d_1", "output"),
        ],
        w=weights(4, 5, 1, 1),
        v=weights(4, 4, 1, 1),
    )
    assert_same(before, simplify(before), rtol=1e-6)


def test_two_operations_split_the_weights_they_share_each_in_its_way() -> None:
    before = small(
        [value("x", "batch", 2, 5, 5), value("image", "batch", 3, 5, 5)],
        [value("y", "batch", 4, 5, 5)],
        [
            node("Concat", "x image", "first", axis=1),
            node("Conv", "first w", "a"),
            node("Concat", "image x", "second", axis=1),
            node("Conv", "second w", "b"),
            node("Add", "a b", "y"),
        ],
        w=weights(4, 5, 1, 1),
    )
    assert_same(before, simplify(before), rtol=1e-6)


def test_factors_are_joined_again_and_again() -> None:
    factors = ("a", "b", "c", "d")
    before = small(
        [value("x", "batch", 3, 4), *(value(name, "batch", 3, 1) for name in factors)],
        [value("y", "batch", 3, 4)],
        [
            node("Mul", "x a", "p"),
            node("Mul", "p b", "q"),
            node("Mul", "q c", "r"),
            node("Mul", "r d", "y"),
        ],
    )
    assert_same(before, simplify(before), rtol=1e-6)


def test_keys_that_are_scaled_twice() -> None:
    before = small(
        [value("q", "batch", 6, 4), value("k", "batch", 4, 6)],
        [value("y", "batch", 6, 6), value("z", "batch", 4, 6)],
        [
            node("Mul", "q root", "q_scaled"),
            node("Mul", "k half", "k_half"),
            node("Relu", "k_half", "z"),
            node("Mul", "k_half root", "k_scaled"),
            node("MatMul", "q_scaled k_scaled", "y"),
        ],
        root=0.7,
        half=0.5,
    )
    assert_same(before, simplify(before), rtol=1e-6)


def test_weights_keep_their_values_whatever_they_are_called() -> None:
    before = small(
        [value("qkv", 3, "batch", 4, 3)],
        [value("y", "batch", 12)],
        [
            node("Slice", "qkv start end start", "part"),
            node("Squeeze", "part start", "q"),
            node("Mul", "q index_0", "a"),
            node("Reshape", "a flat", "b"),
            node("Mul", "b shape_0x12", "y"),
        ],
        start=np.int64([0]),
        end=np.int64([1]),
        flat=np.int64([-1, 12]),
        index_0=7.5,
        shape_0x12=weights(12),
    )
    assert_same(before, simplify(before))
