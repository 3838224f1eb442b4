"""Multiply-accumulates counted by hand, and in the graph that onnxruntime optimizes."""

import numpy as np
import pytest

from fewstep.calibration.lowering.coverage import count_coverage, count_operation_macs, integer_kernels, optimize_graph
from fewstep.graph.graph import Graph
from fewstep.plans.errors import UserError
from tests.calibration.lowering.bodies.small_body import SIZE, body
from tests.onnx_text import graph_of_text


def test_a_body_counts_its_layers_per_sample() -> None:
    pixels = SIZE * SIZE
    assert count_operation_macs(body()) == {
        "h1": 16 * 3 * 9 * pixels,
        "shortcut": 32 * 16 * pixels,
        "h2": 32 * 16 * 9 * pixels,
        "mixed": 32 * 32 * pixels,
        "h3": 16 * 32 * 9 * pixels // 4,
        "h4": 3 * 16 * 9 * pixels,
    }


def graph(shape: str, body: str, **constants: np.ndarray) -> Graph:
    """x [shape] -> body -> y, with as many axes."""
    sizes = "batch" + ", ?" * shape.count(",")
    return graph_of_text(f"(float[{shape}] x) => (float[{sizes}] y) {{ {body} }}", **constants)


GROUPED = "y = Conv<group=4, strides=[2, 2], pads=[1, 1, 1, 1]>(x, w)"
ATTENTION = "k = Reshape(x, heads) q = Transpose<perm=[0, 2, 1]>(k) scores = MatMul(q, k) y = Reshape(scores, samples)"


@pytest.mark.parametrize(
    ("shape", "body", "weight", "counted"),
    [
        ("batch, 8, 10, 6", GROUPED, (16, 2, 3, 3), {"y": 16 * 2 * 9 * 5 * 3}),
        ("batch, 8, 5, 3", "y = ConvTranspose<group=2, strides=[2, 2]>(x, w)", (8, 6, 2, 2), {"y": 8 * 5 * 3 * 6 * 4}),
        ("batch, 6", "y = Gemm(x, w)", (6, 5), {"y": 6 * 5}),
        ("batch, 6", "y = Gemm<transB=1>(x, w)", (5, 6), {"y": 6 * 5}),
        ("batch, 12, 7", ATTENTION, (), {"scores": 4 * 7 * 7 * 3}),  # [B, 4 heads * 3, 7 tokens] as [B * 4, 3, 7]
    ],
)
def test_operations_are_counted(shape: str, body: str, weight: tuple[int, ...], counted: dict[str, int]) -> None:
    shapes = {"heads": np.array([-1, 3, 7]), "samples": np.array([-1, 28, 7])}
    assert count_operation_macs(graph(shape, body, w=np.ones(weight), **shapes)) == counted


def test_a_size_that_varies_is_named() -> None:
    with pytest.raises(UserError, match="shape of 'y' is not known"):
        count_operation_macs(graph("batch, 8, height, 6", "y = Conv(x, w)", w=np.ones((16, 8, 3, 3))))


def test_shares_are_of_all_operations_that_multiply() -> None:
    coverage = count_coverage(body(), ["h2", "mixed"])
    work = count_operation_macs(body())
    assert coverage.int8_macs == work["h2"] + work["mixed"] and coverage.total_macs == sum(work.values())
    assert coverage.int8_ops == ("h2", "mixed") and coverage.float_ops == ("h1", "shortcut", "h3", "h4")


def test_a_float_graph_has_no_integer_kernels() -> None:
    assert integer_kernels(body()) == frozenset()
    assert sum(node.op_type == "Conv" for node in optimize_graph(body())) == 5
