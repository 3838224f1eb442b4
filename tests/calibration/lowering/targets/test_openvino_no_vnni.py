"""OpenVINO's kernels with limited pairs of weights: exact on every x86 CPU."""

import numpy as np
import pytest

from fewstep.calibration.lowering.encoding import integer_name, name_after_rounding
from fewstep.calibration.lowering.targets.openvino import OPENVINO
from fewstep.calibration.lowering.targets.openvino_no_vnni import OPENVINO_NO_VNNI
from fewstep.graph.graph import Array, Graph, Node, Value
from fewstep.graph.session import run
from fewstep.graph.weight_quantization import quantize_weight
from tests.exact_int8 import largest_pair_sum

pytest.importorskip("openvino")
OUTPUTS, SIDE, FINE = 32, 5, 0.25  # powers of two as scales, so that all products and sums are exact in float32
FLOAT = np.dtype(np.float32)


def convolve(channels: int, groups: int, taps: int) -> tuple[Graph, Graph, Array]:
    """Return a convolution in int8 and in float, and its input, whose codes are 0 or 255; without taps, a product."""
    rng = np.random.default_rng(channels)
    kernel = [taps] * 2 if taps else []
    drawn = rng.choice([-1.0, 1.0, 0.1], (OUTPUTS, channels, *kernel)).astype(np.float32)
    weight = quantize_weight(drawn, 0, in_pairs=True).values
    assert largest_pair_sum(weight, 0) == 128
    x = 255 * FINE * rng.integers(0, 2, (6, groups * channels, *([SIDE] * 2 if taps else [])))
    values = weight if taps else weight.T.copy()
    attributes = {"group": groups, "kernel_shape": kernel} if taps else {}
    op, rounded, of_weight = "Conv" if taps else "MatMul", name_after_rounding("x"), name_after_rounding("w")
    negative = Node("Neg", ("y",), ("z",))  # OpenVINO computes outputs of a graph in float
    nodes = (
        Node("QuantizeLinear", ("x", "fine", "zero"), (integer_name("x"),)),
        Node("DequantizeLinear", (integer_name("x"), "fine", "zero"), (rounded,)),
        Node("DequantizeLinear", ("w", "scales", "zeros"), (of_weight,), {"axis": 0 if taps else 1}),
        Node(op, (rounded, of_weight), ("y",), attributes, "y"),
        negative,
    )
    scales = np.full(OUTPUTS, FINE, np.float32)
    constants = {
        "fine": np.array(FINE, np.float32),
        "zero": np.array(0, np.uint8),
        "scales": scales,
        "zeros": np.zeros(OUTPUTS, np.int8),
    }
    left = SIDE - taps + 1
    inputs = (Value("x", FLOAT, x.shape),)
    outputs = (Value("z", FLOAT, (6, OUTPUTS, *([left] * 2 if taps else []))),)
    wide = Graph(
        "wide", inputs, outputs, (Node(op, ("x", "w"), ("y",), attributes), negative), {"w": values * scales[0]}
    )
    return Graph("int8", inputs, outputs, nodes, {**constants, "w": values}), wide, x.astype(np.float32)


@pytest.mark.parametrize(
    ("channels", "groups", "taps"),
    [
        (16, 1, 3),
        (18, 1, 3),
        (17, 1, 3),
        (16, 2, 3),
        (17, 2, 3),
        (50, 1, 1),
        (17, 1, 1),
        (16, 1, 0),
        (50, 1, 0),
        (131, 1, 0),
    ],
)
def test_limited_pairs_have_exact_sums_on_every_cpu(channels: int, groups: int, taps: int) -> None:
    graph, wide, x = convolve(channels, groups, taps)
    np.testing.assert_array_equal(OPENVINO_NO_VNNI.runs(graph)({"x": x})["z"], run(wide, {"x": x})["z"])


def test_attention_stays_float_because_its_products_could_saturate() -> None:
    assert OPENVINO.scheme.int8_attention and not OPENVINO_NO_VNNI.scheme.int8_attention
