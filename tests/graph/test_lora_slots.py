"""Slots for LoRA as optional inputs."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import onnxruntime as ort
import pytest

from fewstep.calibration.lowering.quantize import select_ops_to_lower
from fewstep.graph.files import io
from fewstep.graph.graph import Graph
from fewstep.graph.lora_slots import add_lora_slots
from fewstep.graph.prepare import prepare
from fewstep.graph.selection import select_int8_ops
from fewstep.graph.session import run
from fewstep.plans.errors import UserError
from tests.onnx_text import graph_of_text

SHAPES = {f"layer{number}": (16, 16) for number in range(4)}


def chain() -> Graph:
    """x [B, 16] times four matrices, one after the other."""
    rng = np.random.default_rng(0)
    body = "y1 = MatMul(x, w0) y2 = MatMul(y1, w1) y3 = MatMul(y2, w2) y4 = MatMul(y3, w3) output = Identity(y4)"
    weights = {f"w{number}": rng.standard_normal((16, 16)) / 4 for number in range(4)}
    graph = graph_of_text(f"(float[batch, 16] x) => (float[batch, 16] output) {{ {body} }}", **weights)
    *products, last = graph.nodes
    named = [replace(node, name=f"{layer}/MatMul") for layer, node in zip(SHAPES, products, strict=True)]
    return graph.with_nodes([*named, last])


def test_what_is_left_out_adds_nothing_and_a_rank_of_any_size_adds_its_product(tmp_path: Path) -> None:
    graph, rng = chain(), np.random.default_rng(1)
    body = prepare(add_lora_slots(graph, SHAPES)).body
    x = rng.standard_normal((3, 16)).astype(np.float32)
    np.testing.assert_allclose(run(body, {"x": x})["output"], run(graph, {"x": x})["output"], rtol=1e-5)
    (file,) = io.save(body, tmp_path / "body.onnx")
    assert io.load(file).optional == body.optional and len(body.optional) == 8
    session = ort.InferenceSession(file)
    for rank in (1, 5):
        down, up = (rng.standard_normal(shape).astype(np.float32) for shape in ((16, rank), (rank, 16)))
        weights = {**graph.constants, "w2": graph.constants["w2"] + down @ up}
        (own,) = session.run(None, {"x": x, "lora_down.layer2": down, "lora_up.layer2": up})
        expected = run(Graph("merged", graph.inputs, graph.outputs, graph.nodes, weights), {"x": x})["output"]
        np.testing.assert_allclose(own, expected, rtol=1e-4, atol=1e-4)


def test_the_same_operations_are_lowered() -> None:
    plain, slots = (prepare(graph).body for graph in (chain(), add_lora_slots(chain(), SHAPES)))
    assert [op.weight for op in select_int8_ops(slots)] == [op.weight for op in select_int8_ops(plain)] == ["w1", "w2"]
    with pytest.raises(UserError, match="slots for LoRA files have no ranges"):
        select_ops_to_lower(slots, no_floats=True)
