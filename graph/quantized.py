"""Which operations compute with quantized numbers: by them a graph that was quantized elsewhere is known."""

import re

CONTRIB = "com.microsoft"  # domain of onnxruntime's own operations
DOMAINS = ("", "ai.onnx", CONTRIB)  # ONNX's own goes by two names
OPERATIONS = re.compile(  # how their names begin; a QuickGelu is none
    "Q(Linear|Gemm|Attention|MoE|Ordered|EmbedLayer)|(Dynamic)?Quantize|Dequantize|(MatMul|Conv)Integer"
    "|MatMul(NBits|Bnb4|FpQ4)|GatherBlockQuantized"
)


def is_quantized(op: str, domain: str) -> bool:
    """Whether an operation takes or makes quantized numbers, as both halves of a QDQ pair do."""
    return domain in DOMAINS and OPERATIONS.match(op) is not None
