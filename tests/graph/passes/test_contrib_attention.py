"""Why attention is left as MatMul, Softmax and MatMul."""

import numpy as np
import pytest

from fewstep.graph.passes.contrib_attention import explain_separate_attention
from fewstep.graph.types import infer_types
from tests.onnx_text import graph_of_text

INNER = "w = Softmax <axis = -1> (s)"


def explain(between: str = INNER, result: str = "float[batch, 5, 4] y", keys: str = "batch") -> dict[str, int]:
    graph = graph_of_text(
        f"""(float[batch, 5, 4] q, float[{keys}, 4, 3] k, float[{keys}, 3, 4] v, float[batch, 5, 3] m) => ({result}) {{
            s = MatMul(q, k) {between} y = MatMul(w, v)
        }}""",
        half=np.float32(0.5),
    )
    return explain_separate_attention(graph, infer_types(graph))


def test_attention_that_the_kernel_computes_has_no_reason() -> None:
    assert explain("b = Mul(s, half) c = Add(b, m) w = Softmax <axis = -1> (c)") == {}


@pytest.mark.parametrize(
    ("between", "reason"),
    [
        ("b = Tanh(s) w = Softmax <axis = -1> (b)", "other nodes are between its products, or read its scores"),
        ("w = Softmax <axis = 1> (s)", "its softmax is not along the last axis"),
        ("b = Add(s, m) c = Mul(b, half) w = Softmax <axis = -1> (c)", "it has several masks, or scales one"),
        ("b = Add(s, half) w = Softmax <axis = -1> (b)", "its mask has a shape that the kernel does not take"),
    ],
)
def test_what_is_between_the_products_is_the_reason(between: str, reason: str) -> None:
    assert explain(between) == {reason: 1}


def test_scores_that_others_read_are_the_reason() -> None:
    result = "float[batch, 5, 4] y, float[batch, 5, 3] s"
    assert explain(result=result) == {"other nodes are between its products, or read its scores": 1}


def test_keys_of_another_batch_are_the_reason() -> None:
    assert explain(keys="1") == {"the shapes of its queries, keys and values are unknown, or differ": 1}


def test_scores_of_two_axes_are_the_reason() -> None:
    text = "(float[5, 4] q, float[4, 3] k, float[3, 4] v) => (float[5, 4] y) {{ s = MatMul(q, k) {} y = MatMul(w, v) }}"
    graph = graph_of_text(text.format(INNER))
    assert explain_separate_attention(graph, infer_types(graph)) == {"its scores have 2 axes": 1}


def test_equal_reasons_are_counted() -> None:
    text = """(float[batch, 5, 5] q) => (float[batch, 5, 5] z) {
        s = MatMul(q, q) w = Softmax <axis = 1> (s) y = MatMul(w, q)
        t = MatMul(y, y) u = Softmax <axis = 1> (t) z = MatMul(u, y)
    }"""
    graph = graph_of_text(text)
    assert explain_separate_attention(graph, infer_types(graph)) == {"its softmax is not along the last axis": 2}
