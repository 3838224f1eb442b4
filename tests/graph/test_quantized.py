"""Operations by which a quantized graph is known."""

import pytest

from fewstep.graph.quantized import is_quantized


@pytest.mark.parametrize(
    ("domain", "ops"),
    [
        (
            "",
            "QuantizeLinear DequantizeLinear DynamicQuantizeLinear QLinearConv QLinearMatMul MatMulInteger ConvInteger",
        ),
        (
            "com.microsoft",
            "QuantizeLinear DequantizeLinear QGemm QAttention QLinearAdd QLinearSoftmax QMoE QOrderedMatMul "
            "QEmbedLayerNormalization DynamicQuantizeMatMul DynamicQuantizeLSTM MatMulIntegerToFloat MatMulNBits "
            "GatherBlockQuantized",
        ),
    ],
)
def test_integer_operations_are_known_in_both_domains(domain: str, ops: str) -> None:
    assert [op for op in ops.split() if not is_quantized(op, domain)] == []


def test_float_operations_are_none_of_them() -> None:
    assert not any(is_quantized(op, "") for op in ("Conv", "Gemm", "MatMul", "Cast", "Gather"))
    assert not any(is_quantized(op, "com.microsoft") for op in ("QuickGelu", "Gelu", "FusedConv", "Attention"))
    assert not is_quantized("QuantizeLinear", "somebody.else")
