"""The first version of TensorRT that can parse each operation of opset 20, for graphs that must run on older versions.

Sources: docs/operators.md of onnx/onnx-tensorrt in its releases 10.0 and 10.1, and its docs/Changelog.md for 10.2 to
    10.6. Control flow, recurrent layers and random draws are left out: no prepared graph has them.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from types import MappingProxyType

from fewstep.graph.graph import Graph, Node

Version = tuple[int, int]
OLDEST: Version = (10, 3)  # the oldest supported version, of JetPack 6
OPSET_20: Version = (10, 0)  # the first version whose parser reads opset 20

FIRST: Mapping[Version, str] = MappingProxyType(
    {
        OPSET_20: (
            "Abs Acos Acosh Add And ArgMax ArgMin Asin Asinh Atan Atanh AveragePool BatchNormalization Cast "
            "CastLike Ceil Celu Clip Concat Constant ConstantOfShape Conv ConvTranspose Cos Cosh CumSum "
            "DepthToSpace DequantizeLinear Div Dropout Einsum Elu Equal Erf Exp Expand EyeLike Flatten Floor "
            "Gather GatherElements GatherND Gelu Gemm GlobalAveragePool GlobalLpPool GlobalMaxPool Greater "
            "GreaterOrEqual GridSample GroupNormalization HardSigmoid HardSwish Hardmax Identity "
            "InstanceNormalization IsInf IsNaN LRN LayerNormalization LeakyRelu Less LessOrEqual Log LogSoftmax "
            "LpNormalization LpPool MatMul Max MaxPool Mean MeanVarianceNormalization Min Mish Mod Mul Neg "
            "NonZero Not OneHot Or PRelu Pad Pow QuantizeLinear Range Reciprocal ReduceL1 ReduceL2 ReduceLogSum "
            "ReduceLogSumExp ReduceMax ReduceMean ReduceMin ReduceProd ReduceSum ReduceSumSquare Relu Reshape "
            "Resize RoiAlign Round ScatterElements ScatterND Selu Shape Shrink Sigmoid Sign Sin Sinh Size Slice "
            "Softmax Softplus Softsign SpaceToDepth Split Sqrt Squeeze Sub Sum Tan Tanh ThresholdedRelu Tile TopK "
            "Transpose Trilu Unsqueeze Where Xor"
        ),
        (10, 1): "DeformConv",
        (10, 4): "BlackmanWindow HammingWindow HannWindow",
        (10, 5): "STFT",
    }
)
PARSED: Mapping[str, Version] = MappingProxyType({op: since for since, ops in FIRST.items() for op in ops.split()})


@dataclass(frozen=True)
class UnparsedOperation:
    """An operation that the oldest supported TensorRT cannot parse: its type, one of its nodes, and the first version
    that can parse it, or None."""

    op: str
    node: str
    since: Version | None

    def __str__(self) -> str:
        engine = "no TensorRT" if self.since is None else f"TensorRT only from {version_text(self.since)} on"
        return f"{engine} parses {self.op}, of node {self.node!r}"


def find_unparsed(graph: Graph) -> Iterator[UnparsedOperation]:
    """Yield each operation of a graph that OLDEST does not parse, once."""
    seen: set[str] = set()
    for node in graph.nodes:
        since = _first_version(node)
        if (since is None or since > OLDEST) and node.op not in seen:
            seen.add(node.op)
            yield UnparsedOperation(node.op, node.name or node.output, since)


def minimum_version(graph: Graph) -> Version | None:
    """Return the first TensorRT version that parses the whole graph; None if there is none."""
    versions = [_first_version(node) for node in graph.nodes]
    return None if None in versions else max((OPSET_20, *(version for version in versions if version is not None)))


def version_text(version: Version) -> str:
    return ".".join(map(str, version))


def _first_version(node: Node) -> Version | None:
    return None if node.domain else PARSED.get(node.op)
