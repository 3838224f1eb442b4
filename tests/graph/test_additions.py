"""Names that passes give: torch.export calls the second convolution conv2d_1, a name that a pass may also choose."""

from typing import Any

import numpy as np
import pytest

from fewstep.graph.additions import NewNodes
from fewstep.graph.graph import Array
from fewstep.graph.prepare import simplify
from tests.graph.small_graphs import assert_same
from tests.onnx_text import graph_of_text

RNG = np.random.default_rng(0)


def weights(*shape: int) -> Array:
    return RNG.standard_normal(shape).astype(np.float32)


def test_a_name_is_given_once() -> None:
    new = NewNodes(graph_of_text("(float[2] x) => (float[2] y) { y = Add(x, a) }", a=1.0))
    assert [new.name(wanted) for wanted in ("x", "y", "a", "b", "b", "b")] == ["x_2", "y_2", "a_2", "b", "b_2", "b_3"]


def test_constants_are_shared_by_value_and_never_replaced() -> None:
    new = NewNodes(graph_of_text("(float[2] x) => (float[2] y) { y = Add(x, a) }", a=1.0))
    one, two, whole = np.float32(1), np.float32(2), np.int64(1)
    wanted = [("a", one), ("a", two), ("a", two), ("a", whole), ("x", one), ("b", one)]
    found = [new.constant(name, np.asarray(array)) for name, array in wanted]
    assert found == ["a", "a_2", "a_2", "a_3", "x_2", "b"]
    assert list(new.constants) == ["a_2", "a_3", "x_2", "b"]


SIMPLIFIED: dict[str, tuple[str, dict[str, Any]]] = {
    "parts of a split are not called as another tensor": (
        """(float[batch, 2, 5, 5] x, float[batch, 3, 5, 5] image) => (float[batch, 4, 5, 5] output) {
            cat = Concat<axis=1>(x, image) conv2d = Conv(cat, w) relu = Relu(conv2d)
            conv2d_1 = Conv(relu, v) output = Relu(conv2d_1)
        }""",
        {"w": weights(4, 5, 1, 1), "v": weights(4, 4, 1, 1)},
    ),
    "two operations split the weights they share each in its way": (
        """(float[batch, 2, 5, 5] x, float[batch, 3, 5, 5] image) => (float[batch, 4, 5, 5] y) {
            first = Concat<axis=1>(x, image) a = Conv(first, w)
            second = Concat<axis=1>(image, x) b = Conv(second, w) y = Add(a, b)
        }""",
        {"w": weights(4, 5, 1, 1)},
    ),
    "factors are joined again and again": (
        """(float[batch, 3, 4] x, float[batch, 3, 1] a, float[batch, 3, 1] b, float[batch, 3, 1] c,
            float[batch, 3, 1] d) => (float[batch, 3, 4] y)
        { p = Mul(x, a) q = Mul(p, b) r = Mul(q, c) y = Mul(r, d) }""",
        {},
    ),
    "keys are scaled twice": (
        """(float[batch, 6, 4] q, float[batch, 4, 6] k) => (float[batch, 6, 6] y, float[batch, 4, 6] z) {
            q_scaled = Mul(q, root) k_half = Mul(k, half) z = Relu(k_half)
            k_scaled = Mul(k_half, root) y = MatMul(q_scaled, k_scaled)
        }""",
        {"root": 0.7, "half": 0.5},
    ),
    "weights keep their values whatever they are called": (
        """(float[3, batch, 4, 3] qkv) => (float[batch, 12] y) {
            part = Slice(qkv, start, end, start) q = Squeeze(part, start)
            a = Mul(q, index_0) b = Reshape(a, flat) y = Mul(b, shape_0x12)
        }""",
        {
            **{"start": np.int64([0]), "end": np.int64([1]), "flat": np.int64([-1, 12])},
            **{"index_0": 7.5, "shape_0x12": weights(12)},
        },
    ),
}


@pytest.mark.parametrize(("text", "constants"), SIMPLIFIED.values(), ids=SIMPLIFIED)
def test_names_that_passes_give_change_no_function(text: str, constants: dict[str, Any]) -> None:
    before = graph_of_text(text, **constants)
    assert_same(before, simplify(before), rtol=1e-6)
