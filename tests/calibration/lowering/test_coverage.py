"""Multiply-accumulates by hand, and what onnxruntime makes of a graph."""

import numpy as np
import pytest

from fewstep.calibration.lowering.coverage import count, integer_kernels, macs, optimized
from fewstep.graph.graph import BATCH, Graph, Node, Value
from fewstep.plans.errors import UserError
from tests.calibration.lowering.bodies.small_body import SIZE, body

F32 = np.dtype(np.float32)


def graph(shape: tuple[int | str, ...], *nodes: Node, **constants: np.ndarray) -> Graph:
    out = nodes[-1].output
    return Graph(
        "g", (Value("x", F32, shape),), (Value(out, F32, (BATCH, *["?"] * (len(shape) - 1))),), nodes, constants
    )


def test_a_body_counts_its_layers_per_sample() -> None:
    pixels = SIZE * SIZE
    assert macs(body()) == {
        "h1": 16 * 3 * 9 * pixels,
        "shortcut": 32 * 16 * pixels,
        "h2": 32 * 16 * 9 * pixels,
        "mixed": 32 * 32 * pixels,
        "h3": 16 * 32 * 9 * pixels // 4,
        "h4": 3 * 16 * 9 * pixels,
    }


def test_grouped_strided_convolutions() -> None:
    conv = Node("Conv", ("x", "w"), ("y",), {"group": 4, "strides": [2, 2], "pads": [1, 1, 1, 1]})
    assert macs(graph((BATCH, 8, 10, 6), conv, w=np.ones((16, 2, 3, 3), np.float32))) == {"y": 16 * 2 * 9 * 5 * 3}


def test_transposed_convolutions() -> None:
    conv = Node("ConvTranspose", ("x", "w"), ("y",), {"group": 2, "strides": [2, 2]})
    assert macs(graph((BATCH, 8, 5, 3), conv, w=np.ones((8, 6, 2, 2), np.float32))) == {"y": 8 * 5 * 3 * 6 * 4}


@pytest.mark.parametrize("attributes, weight", [({}, (6, 5)), ({"transB": 1}, (5, 6))])
def test_gemm(attributes: dict[str, int], weight: tuple[int, int]) -> None:
    gemm = Node("Gemm", ("x", "w"), ("y",), attributes)
    assert macs(graph((BATCH, 6), gemm, w=np.ones(weight, np.float32))) == {"y": 6 * 5}


def test_attention_counts_also_where_heads_are_merged_with_the_batch() -> None:
    """[B, 4 heads * 3, 7 tokens] as [B * 4, 3, 7]: q^T k is 4 * 7 * 7 * 3."""
    nodes = (
        Node("Reshape", ("x", "heads"), ("k",)),
        Node("Transpose", ("k",), ("q",), {"perm": [0, 2, 1]}),
        Node("MatMul", ("q", "k"), ("scores",)),
        Node("Reshape", ("scores", "samples"), ("y",)),
    )
    merged = graph((BATCH, 12, 7), *nodes, heads=np.array([-1, 3, 7]), samples=np.array([-1, 28, 7]))
    assert macs(merged) == {"scores": 4 * 7 * 7 * 3}


def test_a_size_that_varies_is_named() -> None:
    conv = Node("Conv", ("x", "w"), ("y",))
    with pytest.raises(UserError, match="shape of 'y' is not known"):
        macs(graph((BATCH, 8, "height", 6), conv, w=np.ones((16, 8, 3, 3), np.float32)))


def test_shares_are_of_all_operations_that_multiply() -> None:
    coverage = count(body(), ["h2", "mixed"])
    work = macs(body())
    assert coverage.int8_macs == work["h2"] + work["mixed"] and coverage.total_macs == sum(work.values())
    assert coverage.int8_ops == ("h2", "mixed") and coverage.float_ops == ("h1", "shortcut", "h3", "h4")


def test_a_float_graph_has_no_integer_kernels() -> None:
    assert integer_kernels(body()) == frozenset()
    assert sum(node.op_type == "Conv" for node in optimized(body())) == 5
