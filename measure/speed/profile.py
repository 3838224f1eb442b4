"""Profile the time of a step: the fraction of each operation type, from onnxruntime's own profile.

The types are those that a performance engineer can act on: products in int8, products that stayed in float, conversions
between the two, and operations that are not computed in int8.
"""

import json
from collections import defaultdict
from collections.abc import Mapping
from itertools import groupby
from pathlib import Path
from statistics import median
from tempfile import TemporaryDirectory
from typing import Any

PROFILED_RUNS = 9  # number of runs; for each operation, the median over them counts
KINDS = {
    "products in int8": "QLinearConv ConvInteger QLinearMatMul MatMulInteger MatMulIntegerToFloat QGemm"
    " DynamicQuantizeMatMul QLinearConvTranspose QAttention",
    "products in float": "Conv FusedConv NhwcFusedConv ConvTranspose MatMul FusedMatMul Gemm FusedGemm Einsum Attention"
    " MultiHeadAttention MatMulNBits",
    "into int8 and back": "QuantizeLinear DequantizeLinear DynamicQuantizeLinear",
    "moves of data": "Transpose Reshape Squeeze Unsqueeze Flatten Expand Concat Split Slice Gather Pad DepthToSpace"
    " SpaceToDepth ReorderInput ReorderOutput QLinearConcat Resize Upsample Cast Shape ConstantOfShape Identity",
    "norms": "InstanceNormalization GroupNormalization GroupNorm LayerNormalization SkipLayerNormalization"
    " SimplifiedLayerNormalization RMSNormalization ReduceMean ReduceSum ReduceSumSquare LpNormalization",
    "functions": "Softmax Gelu FastGelu QuickGelu BiasGelu Sigmoid Tanh Erf Exp Relu LeakyRelu Elu Softplus Mish Silu"
    " Sin Cos Sqrt Pow Clip",
    "sums and factors": "Add Sub Mul Div BatchNormalization AveragePool GlobalAveragePool Neg Sum QLinearAdd"
    " QLinearMul",
}
REST = "the rest"
_KIND_OF = {operation: kind for kind, operations in KINDS.items() for operation in operations.split()}


def profile_graph(path: str, options: Any, feeds: Mapping[str, Any]) -> dict[str, float]:
    """Return the seconds of each operation type in a run of a graph, the longest first. `options`: onnxruntime's."""
    import onnxruntime

    with TemporaryDirectory() as folder:
        options.enable_profiling, options.profile_file_prefix = True, str(Path(folder, "run"))
        session = onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])
        for _ in range(PROFILED_RUNS + 1):  # the first run allocates memory
            session.run(None, feeds)
        return seconds_by_kind(json.loads(Path(session.end_profiling()).read_text()))


def seconds_by_kind(events: list[dict[str, Any]]) -> dict[str, float]:
    """Return the seconds of each operation type in the events of onnxruntime's profile, the longest first. Each node
    counts with the median over its runs."""
    nodes = sorted(
        (event["name"], event["args"]["op_name"], event["dur"])
        for event in events
        if event.get("cat") == "Node" and event["name"].endswith("_kernel_time")
    )
    times = defaultdict[str, float](float)
    for (_, operation), runs in groupby(nodes, key=lambda node: node[:2]):
        times[_KIND_OF.get(operation, REST)] += median(duration for _, _, duration in runs)
    return {kind: 1e-6 * times[kind] for kind in sorted(times, key=lambda kind: -times[kind])}
