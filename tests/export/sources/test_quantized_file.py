"""ONNX files that are already quantized are refused, whatever quantized them."""

import re
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnxruntime.quantization import CalibrationDataReader, QuantFormat, quantize_dynamic, quantize_static

from fewstep.export.export import export
from fewstep.export.export_options import ExportOptions
from fewstep.plans.errors import UserError
from tests.export.sources.onnx_models import CHANNELS, SIZE, model
from tests.export.sources.test_onnx_file import written
from tests.onnx_text import parse_graph


class Drawn(CalibrationDataReader):  # type: ignore[misc]
    """Random values of the model's two inputs."""

    def __init__(self) -> None:
        rng = np.random.default_rng(0)
        x = rng.standard_normal((2, 1, CHANNELS, SIZE, SIZE)).astype(np.float32)
        self.left = [{"sample": each, "timestep": np.ones(1, np.float32), "label": np.zeros(1, int)} for each in x]

    def get_next(self) -> dict[str, Any] | None:
        return self.left.pop() if self.left else None


def with_gemm() -> onnx.ModelProto:
    """Return a model that onnxruntime's quantizer converts to a QGemm."""
    proto = model()
    shapes = {"flat": np.int64([-1, SIZE]), "shape": np.int64([-1, CHANNELS, SIZE, SIZE])}
    proto.graph.node[-1].output[0] = "whole"
    text = "rows = Reshape(whole, flat) product = Gemm(rows, square) out = Reshape(product, shape)"
    more = parse_graph(f"g () => () {{ {text} }}", **shapes, square=np.eye(SIZE, dtype=np.float32)).graph
    proto.graph.initializer.extend(more.initializer)
    proto.graph.node.extend(more.node)
    proto.graph.node[-2].name = "last"
    return proto


@pytest.mark.parametrize(
    ("form", "only", "node"),
    [
        (QuantFormat.QOperator, ["Gemm"], "'last_quant' is a QGemm|'rows_QuantizeLinear' is a QuantizeLinear"),
        (QuantFormat.QDQ, ["Conv"], "is a (Quantize|Dequantize)Linear"),
        (None, ["MatMul"], "'tokens_QuantizeLinear' is a DynamicQuantizeLinear"),
    ],
    ids=["operators", "pairs", "dynamic"],
)
def test_a_quantized_file_is_refused_by_node_with_where_to_begin(
    form: QuantFormat | None, only: list[str], node: str, tmp_path: Path
) -> None:
    given, spec = written(tmp_path, with_gemm())
    file = tmp_path / "quantized.onnx"
    if form is None:
        quantize_dynamic(given, file, op_types_to_quantize=only)
    else:
        quantize_static(given, file, Drawn(), quant_format=form, op_types_to_quantize=only)
    with pytest.raises(UserError, match="quantized.onnx is quantized already: node ") as failure:
        export(ExportOptions(str(file), tmp_path / "bundle", spec))
    assert re.search(node, failure.value.what) and "\n" not in str(failure.value)
    assert failure.value.fix.startswith("export the original float ONNX file")
