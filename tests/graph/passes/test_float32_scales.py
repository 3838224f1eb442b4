"""Scales of 8 bits in float32, in a graph of float16."""

import numpy as np
import onnx

from fewstep.graph.half_types import BFLOAT16
from fewstep.graph.passes.float32_scales import float32_scales
from fewstep.graph.session import run
from fewstep.graph.types import infer_types
from tests.onnx_text import graph_of_text


def test_pairs_round_in_float32_and_the_rest_stays_float16() -> None:
    """Two activations' codes read one tensor."""
    fine, coarse = np.float16(0.0123), np.float16(0.377)
    graph = graph_of_text(
        """(float[batch, 64] x) => (float[batch, 64] y) {
            half = Cast<to=10>(x)
            a = QuantizeLinear(half, fine, zero) a16 = DequantizeLinear(a, fine, zero)
            b = QuantizeLinear(half, coarse, zero) b16 = DequantizeLinear(b, coarse, zero)
            sum = Add(a16, b16) y = Cast<to=1>(sum)
        }""",
        fine=fine,
        coarse=coarse,
        zero=np.int8(0),
    )
    wide = float32_scales(graph)
    assert {str(constant.dtype) for constant in wide.constants.values()} == {"float32", "int8"}
    assert wide.ops().count("Cast") == 2 + 1 + 2  # one before both codes, one after each
    x = np.random.default_rng(0).standard_normal((3, 64)).astype(np.float32)
    half = x.astype(np.float16).astype(np.float32)
    codes = {scale: np.clip(np.rint(half / np.float32(scale)), -128, 127) for scale in (fine, coarse)}
    fine_part, coarse_part = ((code * np.float32(scale)).astype(np.float16) for scale, code in codes.items())
    found = run(wide, {"x": x}, also=["a16", "b16"])
    np.testing.assert_array_equal(found["a16"], fine_part)
    np.testing.assert_array_equal(found["b16"], coarse_part)
    types = {value.name: str(value.dtype) for value in infer_types(wide).values.values()}
    assert {types[name] for name in ("half", "a16", "b16", "sum")} == {"float16"}


def test_scales_of_bfloat16_are_written_so_too() -> None:
    """The product of DequantizeLinear is bfloat16 again."""
    body = """half = Cast<to=16>(x) code = QuantizeLinear(half, scale, zero)
    again = DequantizeLinear(code, scale, zero) y = Cast<to=1>(again)"""
    numbers = {"scale": np.asarray(0.0123, BFLOAT16), "zero": np.int8(0)}
    graph = graph_of_text(f"(float[batch, 4] x) => (float[batch, 4] y) {{ {body} }}", **numbers)
    wide = float32_scales(graph)
    assert {str(constant.dtype) for constant in wide.constants.values()} == {"float32", "int8"}
    assert [node.attributes["to"] for node in wide.nodes if node.outputs == ("again",)] == [onnx.TensorProto.BFLOAT16]
