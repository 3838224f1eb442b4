"""Weights in 4 bits next to another tool: its graph, and the bytes of weights."""

import numpy as np
import pytest

from benchmarks.quantization.few_bits import main, packed_bytes, separate_biases
from fewstep.graph.grouped_weights import quantize_in_groups
from fewstep.graph.session import run
from fewstep.graph.weight_quantization import quantize_weight
from tests.onnx_text import graph_of_text


def test_a_gemm_is_a_product_and_a_sum_for_the_tool() -> None:
    rng = np.random.default_rng(0)
    weights = {"w": rng.standard_normal((32, 16)), "b": rng.standard_normal(32)}
    text = "(float[batch, 16] text) => (float[batch, 32] row) { row = Gemm<transB=1>(text, w, b) }"
    graph = graph_of_text(text, **{name: value.astype(np.float32) for name, value in weights.items()})
    separate = separate_biases(graph)
    assert [(node.op, node.name) for node in separate.nodes] == [("MatMul", "row/product"), ("Add", "row")]
    feeds = {"text": rng.standard_normal((3, 16)).astype(np.float32)}
    np.testing.assert_allclose(run(separate, feeds)["row"], run(graph, feeds)["row"], atol=1e-5)


def test_the_bytes_of_a_weight() -> None:
    rows = np.random.default_rng(0).standard_normal((8, 96)).astype(np.float32)
    assert packed_bytes(quantize_in_groups(rows, 32)) == 8 * 3 * (16 + 2.5)
    assert packed_bytes(quantize_in_groups(rows, 64)) == 8 * 2 * (32 + 2.5)  # the last group is padded
    assert packed_bytes(quantize_weight(rows, 0)) == pytest.approx(8 * 96 + 8 * 4)


def test_steps_are_refused_since_each_denoiser_has_its_own_plan(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        main(["--steps", "4"])
    assert "unrecognized arguments: --steps 4" in capsys.readouterr().err
