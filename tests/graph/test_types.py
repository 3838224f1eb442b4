import numpy as np

from fewstep.graph.types import infer_types
from tests.graph.small import node, small, value


def test_the_batch_stays_a_symbol_and_the_rest_are_numbers() -> None:
    graph = small(
        [value("x", "batch", 3, 8, 8)],
        [value("y", "batch", 4, 16)],
        [node("Conv", "x w", "a", strides=[2, 2]), node("Reshape", "a flat", "y")],
        w=np.zeros((4, 3, 2, 2), np.float32),
        flat=np.int64([0, 4, 16]),
    )
    types = infer_types(graph)
    assert types.shape("a") == ("batch", 4, 4, 4) and types.rank("a") == 4
    assert types.static("a") is None and types.static("w") == (4, 3, 2, 2)
    assert types.values["a"].dtype == np.float32
    assert types.sample_bytes("a") == 4 * 4 * 4 * 4
    assert types.shape("nothing") is None and types.sample_bytes("nothing") is None


def test_the_batch_survives_a_resize() -> None:
    graph = small(
        [value("x", "batch", 3, 4, 4)],
        [value("y", "batch", 3, 8, 8)],
        [node("Resize", "x - scales", "a", mode="nearest"), node("Relu", "a", "y")],
        scales=[1.0, 1.0, 2.0, 2.0],
    )
    assert infer_types(graph).shape("a") == ("batch", 3, 8, 8)


def test_large_weights_count_by_their_shape() -> None:
    graph = small(
        [value("x", "batch", 64)],
        [value("y", "batch", 64)],
        [node("MatMul", "x w", "y")],
        w=np.zeros((64, 64), np.float32),
    )
    assert infer_types(graph).shape("y") == ("batch", 64)


def test_the_batch_is_found_behind_a_layout_with_another_axis_first() -> None:
    """As attention over [tokens, batch * heads, width] leaves it; what never was a batch keeps its symbol."""
    graph = small(
        [value("x", "batch", 6, 4), value("other", "n", 4)],
        [value("y", "batch", 24), value("z", "m", 2)],
        [
            node("Transpose", "x", "first", perm=[1, 0, 2]),
            node("Reshape", "first heads", "inner"),
            node("Reshape", "inner back", "again"),
            node("Transpose", "again", "last", perm=[1, 0, 2]),
            node("Reshape", "last flat", "y"),
            node("Reshape", "other halves", "z"),
        ],
        heads=np.int64([6, -1, 2]),
        back=np.int64([6, -1, 4]),
        flat=np.int64([-1, 24]),
        halves=np.int64([-1, 2]),
    )
    types = infer_types(graph)
    assert types.shape("last") == ("batch", 6, 4) and types.shape("y") == ("batch", 24)
    assert isinstance(found := (types.shape("z") or ())[0], str) and found != "batch"
