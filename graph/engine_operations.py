"""The version of TensorRT that first parses each operation of opset 20, for graphs that old engines have to take.

Sources are docs/operators.md of onnx/onnx-tensorrt in its releases 8.0, 8.2, 8.4, 8.5, 8.6, 9.0 to 9.3, 10.0 and 10.1,
and its docs/Changelog.md for 10.2 to 10.6. Control flow, recurrent layers and random draws are left out: no prepared
graph has them.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from types import MappingProxyType

from fewstep.graph.graph import Graph, Node

Version = tuple[int, int]
OLDEST: Version = (10, 3)  # JetPack 6
OPSET_20: Version = (10, 0)  # the first whose parser reads it

FIRST: Mapping[Version, str] = MappingProxyType(
    {
        (8, 0): (
            "Abs Acos Acosh Add And ArgMax ArgMin Asin Asinh Atan Atanh AveragePool BatchNormalization Cast Ceil "
            "Celu Clip Concat Constant ConstantOfShape Conv ConvTranspose Cos Cosh CumSum DepthToSpace "
            "DequantizeLinear Div Dropout Elu Equal Erf Exp Expand EyeLike Flatten Floor Gather GatherElements "
            "Gemm GlobalAveragePool GlobalLpPool GlobalMaxPool Greater GreaterOrEqual HardSigmoid Identity "
            "InstanceNormalization LRN LeakyRelu Less LessOrEqual Log LogSoftmax LpNormalization LpPool MatMul "
            "Max MaxPool Mean Min Mul Neg Not Or PRelu Pad Pow QuantizeLinear Range ReduceL1 ReduceL2 "
            "ReduceLogSum ReduceLogSumExp ReduceMax ReduceMean ReduceMin ReduceProd ReduceSum ReduceSumSquare "
            "Relu Reshape Resize Selu Shape Sigmoid Sin Sinh Size Slice Softmax Softplus Softsign SpaceToDepth "
            "Split Sqrt Squeeze Sub Sum Tan Tanh ThresholdedRelu Tile TopK Transpose Unsqueeze Where"
        ),
        (8, 2): "Einsum GatherND IsNaN Round ScatterElements ScatterND Sign",
        (8, 4): "Shrink Xor",
        (8, 5): "GridSample MeanVarianceNormalization NonZero Reciprocal RoiAlign Trilu",
        (8, 6): "GroupNormalization HardSwish IsInf LayerNormalization Mod OneHot",
        (9, 1): "CastLike",
        (9, 2): "Hardmax",
        (10, 0): "Gelu Mish",
        (10, 1): "DeformConv",
        (10, 4): "BlackmanWindow HammingWindow HannWindow",
        (10, 5): "STFT",
    }
)
PARSED: Mapping[str, Version] = MappingProxyType({op: since for since, ops in FIRST.items() for op in ops.split()})


@dataclass(frozen=True)
class UnparsedOperation:
    """An operation that the oldest TensorRT does not parse, one node of it, and the version that does, if any."""

    op: str
    node: str
    since: Version | None

    def __str__(self) -> str:
        engine = "no TensorRT" if self.since is None else f"TensorRT only from {text(self.since)} on"
        return f"{engine} parses {self.op}, of node {self.node!r}"


def unparsed(graph: Graph, oldest: Version = OLDEST) -> Iterator[UnparsedOperation]:
    """Each operation of a graph that `oldest` does not parse, once."""
    seen: set[str] = set()
    for node in graph.nodes:
        since = _since(node)
        if (since is None or since > oldest) and node.op not in seen:
            seen.add(node.op)
            yield UnparsedOperation(node.op, node.name or node.output, since)


def needed_version(graph: Graph) -> Version | None:
    """The first TensorRT that parses all of a graph; None where there is none."""
    versions = [_since(node) for node in graph.nodes]
    return None if None in versions else max((OPSET_20, *(each for each in versions if each is not None)))


def text(version: Version) -> str:
    return ".".join(map(str, version))


def _since(node: Node) -> Version | None:
    return None if node.domain else PARSED.get(node.op)
