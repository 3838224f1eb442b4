"""The bfloat16 form for ONNX Runtime's CUDA provider: only operations that have a kernel, with equal numbers."""

from pathlib import Path

import numpy as np
import onnx
import pytest

from fewstep.graph.cuda.bfloat16 import FLOAT32, KERNELS, OPSET_OF_CONV
from fewstep.graph.cuda.cuda_form import cuda_form
from fewstep.graph.files import io
from fewstep.graph.graph import Graph
from fewstep.graph.half_types import BFLOAT16
from fewstep.graph.passes.float32 import to_float32
from fewstep.graph.passes.half import to_half
from fewstep.graph.passes.rounding import make_runnable
from fewstep.graph.session import run
from tests.onnx_text import graph_of_text
from tests.refusals import refuses

NORM = """(float[batch, 6, 4, 4] x) => (float[batch, 6, 4, 4] y) {
    g = Reshape(x, groups) i = InstanceNormalization <epsilon = 0.01> (g, scales, shifts) y = Reshape(i, whole)
}"""
SIZES = {"groups": np.int64([0, 2, -1]), "whole": np.int64([0, 6, 4, 4])}


def in_bfloat16(text: str, **constants: object) -> Graph:
    return to_half(graph_of_text(text, **constants), BFLOAT16)


@pytest.mark.parametrize(
    ("scales", "shifts", "ops"),
    [
        ([1.0, 1.0], [0.0, 0.0], ["LayerNormalization"]),
        ([2.0, 1.0], [0.0, 0.0], ["LayerNormalization", "Mul"]),
        ([1.0, 1.0], [0.5, 0.0], ["LayerNormalization", "Add"]),
        ([2.0, 0.5], [0.5, -1.0], ["LayerNormalization", "Mul", "Add"]),
    ],
)
def test_a_group_norm_is_a_layer_norm_with_the_same_numbers(
    scales: list[float], shifts: list[float], ops: list[str]
) -> None:
    """Groups with any number of channels, here 3. In float32 the two differ by rounding only."""
    portable = in_bfloat16(NORM, scales=scales, shifts=shifts, **SIZES)
    form = cuda_form(portable)
    assert [op for op in form.ops() if op not in ("Cast", "Reshape")] == ops
    x = 3 + np.random.default_rng(0).standard_normal((2, 6, 4, 4)).astype(np.float32)
    expected, found = (run(to_float32(each), {"x": x})["y"] for each in (portable, form))
    np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-5)


def test_its_results_are_within_the_rounding_of_bfloat16() -> None:
    portable = in_bfloat16(NORM, scales=[2.0, 0.5], shifts=[0.5, -1.0], **SIZES)
    x = np.random.default_rng(1).standard_normal((2, 6, 4, 4)).astype(np.float32)
    expected, found = (run(make_runnable(each), {"x": x})["y"] for each in (portable, cuda_form(portable)))
    np.testing.assert_allclose(found, expected, rtol=2**-7, atol=2**-7)


def test_an_operation_with_a_float32_kernel_is_computed_in_float32() -> None:
    text = "(float[batch, 4, 4, 4] x) => (float[batch, 4, 8, 8] y) { y = Resize <mode = 'nearest'> (x, '', factors) }"
    form = cuda_form(in_bfloat16(text.replace("'", '"').replace('""', ""), factors=[1.0, 1.0, 2.0, 2.0]))
    assert form.ops() == ("Cast", "Cast", "Resize", "Cast", "Cast")
    x = np.random.default_rng(2).standard_normal((2, 4, 4, 4)).astype(np.float32)
    rounded = x.astype(BFLOAT16).astype(np.float32)
    np.testing.assert_array_equal(run(make_runnable(form), {"x": x})["y"], rounded.repeat(2, axis=2).repeat(2, axis=3))


def test_an_operation_without_any_kernel_is_refused_by_name() -> None:
    graph = in_bfloat16("(float[batch, 4] x) => (float[batch, 4] y) { y = Elu(x) }")
    with refuses(("bfloat16", "Elu"), "float16 or float32"):
        cuda_form(graph)


def test_a_norm_with_a_computed_scale_is_refused_by_name() -> None:
    text = """(float[batch, 4, 6] x, float[4] w) => (float[batch, 4, 6] y) {
        s = Mul(w, two) y = InstanceNormalization(x, s, shifts) }"""
    with refuses(("bfloat16", "InstanceNormalization"), "float16 or float32"):
        cuda_form(in_bfloat16(text, two=2.0, shifts=[0.0] * 4))


def test_a_norm_over_a_free_size_is_refused() -> None:
    text = "(float[batch, 4, n] x) => (float[batch, 4, n] y) { y = InstanceNormalization(x, scales, shifts) }"
    with refuses(("bfloat16", "free size"), "export with"):
        cuda_form(in_bfloat16(text, scales=[1.0] * 4, shifts=[0.0] * 4))


def test_the_file_has_the_opset_whose_conv_takes_bfloat16(tmp_path: Path) -> None:
    text = "(float[batch, 4, 4, 4] x) => (float[batch, 4, 4, 4] y) { y = Conv(x, w) }"
    form = cuda_form(in_bfloat16(text, w=np.eye(4, dtype=np.float32)[:, :, None, None]))
    io.save(form, tmp_path / "form.onnx")
    model = onnx.load(tmp_path / "form.onnx")
    assert [opset.version for opset in model.opset_import if not opset.domain] == [OPSET_OF_CONV]
    onnx.checker.check_model(model, full_check=True)  # its types too: Conv of opset 20 takes no bfloat16


@pytest.mark.parametrize("op", sorted(KERNELS - {"Attention", "SkipLayerNormalization"}))
def test_opset_22_allows_bfloat16_where_a_kernel_is_named(op: str) -> None:
    if op in ("FastGelu", "MultiHeadAttention", "QuickGelu", "SimplifiedLayerNormalization", "Mish", "Gelu"):
        pytest.skip("of com.microsoft, or a function of ONNX")
    schema = onnx.defs.get_schema(op, OPSET_OF_CONV)
    allowed = {each for rule in schema.type_constraints for each in rule.allowed_type_strs}
    assert "tensor(bfloat16)" in allowed and op not in FLOAT32
