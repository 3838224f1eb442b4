"""Scales of 8 bits in float32, in a graph of float16."""

import numpy as np
import onnx

from fewstep.graph.half_types import BFLOAT16
from fewstep.graph.passes.float32_scales import float32_scales
from fewstep.graph.session import run
from fewstep.graph.types import infer_types
from tests.graph.small import node, small, value

HALF, FLOAT = onnx.TensorProto.FLOAT16, onnx.TensorProto.FLOAT


def test_pairs_round_in_float32_and_the_rest_stays_float16() -> None:
    """Two activations' codes read one tensor."""
    nodes = [
        node("Cast", "x", "half", to=HALF),
        node("QuantizeLinear", "half fine zero", "a"),
        node("QuantizeLinear", "half coarse zero", "b"),
        node("DequantizeLinear", "a fine zero", "a16"),
        node("DequantizeLinear", "b coarse zero", "b16"),
        node("Add", "a16 b16", "sum"),
        node("Cast", "sum", "y", to=FLOAT),
    ]
    fine, coarse = np.float16(0.0123), np.float16(0.377)
    shape = "batch", 64
    graph = small([value("x", *shape)], [value("y", *shape)], nodes, fine=fine, coarse=coarse, zero=np.int8(0))
    wide = float32_scales(graph)
    assert {str(each.dtype) for each in wide.constants.values()} == {"float32", "int8"}
    assert wide.ops().count("Cast") == 2 + 1 + 2  # one in front of both codes, one behind each
    x = np.random.default_rng(0).standard_normal((3, 64)).astype(np.float32)
    half = x.astype(np.float16).astype(np.float32)
    codes = {scale: np.clip(np.rint(half / np.float32(scale)), -128, 127) for scale in (fine, coarse)}
    fine_part, coarse_part = ((code * np.float32(scale)).astype(np.float16) for scale, code in codes.items())
    found = run(wide, {"x": x}, also=["a16", "b16"])
    np.testing.assert_array_equal(found["a16"], fine_part)
    np.testing.assert_array_equal(found["b16"], coarse_part)
    types = {each.name: str(each.dtype) for each in infer_types(wide).values.values()}
    assert {types[name] for name in ("half", "a16", "b16", "sum")} == {"float16"}


def test_scales_of_bfloat16_are_written_so_too() -> None:
    """The product of DequantizeLinear is bfloat16 again."""
    nodes = [
        node("Cast", "x", "half", to=onnx.TensorProto.BFLOAT16),
        node("QuantizeLinear", "half scale zero", "code"),
        node("DequantizeLinear", "code scale zero", "again"),
        node("Cast", "again", "y", to=FLOAT),
    ]
    scale = np.asarray(0.0123, BFLOAT16)
    graph = small([value("x", "batch", 4)], [value("y", "batch", 4)], nodes, scale=scale, zero=np.int8(0))
    wide = float32_scales(graph)
    assert {str(each.dtype) for each in wide.constants.values()} == {"float32", "int8"}
    assert [each.attributes["to"] for each in wide.nodes if each.outputs == ("again",)] == [onnx.TensorProto.BFLOAT16]
