"""Chains of equal operators as ONNX graphs, in the forms of an operator that ONNX Runtime's CUDA provider can run."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

Layout = Literal["NCHW", "NHWC", "tokens"]
OPSET, CONTRIB = 18, "com.microsoft"
EPSILON = 1e-5


@dataclass(frozen=True)
class Chain:
    """Equal operators, each of which takes the result of the previous one.

    operator: a key of OPERATORS. shape: of the graph's input x. precision: float32 or float16. groups: of a norm.
    heads: of attention. prefer_nhwc: a setting of the provider. short, long: lengths of two chains, whose times
    differ by that of the operators between them.
    """

    operator: str
    precision: str
    shape: tuple[int, ...]
    groups: int = 8
    heads: int = 8
    prefer_nhwc: bool = False
    short: int = 16
    long: int = 64

    @property
    def name(self) -> str:
        return f"{self.operator}, prefer_nhwc" if self.prefer_nhwc else self.operator

    @property
    def dtype(self) -> Any:
        return np.dtype(self.precision)


@dataclass(frozen=True)
class Parts:
    """Nodes and weights of a graph that is being put together."""

    nodes: list[onnx.NodeProto]
    weights: dict[str, np.ndarray]

    def add(self, kind: str, inputs: Sequence[str], domain: str = "", **attributes: Any) -> str:
        """Add a node and return the name of its output."""
        output = f"value_{len(self.nodes)}"
        self.nodes.append(helper.make_node(kind, list(inputs), [output], domain=domain, **attributes))
        return output

    def weight(self, name: str, value: np.ndarray) -> str:
        """Add a weight that all operators of the chain share."""
        self.weights[name] = value
        return name


def model_of(chain: Chain, length: int) -> bytes:
    """The ONNX file of a chain with `length` operators, from `x` to `y`."""
    parts, value = Parts([], {}), "x"
    for _ in range(length):
        value = OPERATORS[chain.operator](parts, value, chain)
    parts.nodes[-1].output[0] = "y"
    element = TensorProto.FLOAT16 if chain.precision == "float16" else TensorProto.FLOAT
    graph = helper.make_graph(
        parts.nodes,
        "chain",
        [helper.make_tensor_value_info("x", element, chain.shape)],
        [helper.make_tensor_value_info("y", element, chain.shape)],
        [numpy_helper.from_array(value, name) for name, value in parts.weights.items()],
    )
    opsets = [helper.make_opsetid("", OPSET), helper.make_opsetid(CONTRIB, 1)]
    return helper.make_model(graph, opset_imports=opsets, ir_version=9).SerializeToString()


def input_of(chain: Chain) -> np.ndarray:
    """Return x, the same for all forms of an operator except for its layout."""
    drawn = np.random.default_rng(0).standard_normal(nchw(chain.shape, layout_of(chain)), np.float32)
    return to_layout(drawn, layout_of(chain)).astype(chain.dtype)


def layout_of(chain: Chain) -> Layout:
    """Return the position of the channels in a chain's tensors."""
    if chain.operator.startswith("attention"):
        return "tokens"
    return "NHWC" if chain.operator.startswith("contrib GroupNorm") else "NCHW"


def nchw(shape: tuple[int, ...], layout: Layout) -> tuple[int, ...]:
    """A shape with its channels second."""
    return (shape[0], shape[3], shape[1], shape[2]) if layout == "NHWC" else shape


def to_layout(values: np.ndarray, layout: Layout) -> np.ndarray:
    """Values [N, C, H, W] in a layout."""
    return np.ascontiguousarray(values.transpose(0, 2, 3, 1)) if layout == "NHWC" else values


def _channels(chain: Chain) -> int:
    return nchw(chain.shape, layout_of(chain))[1]


def _norm_weights(parts: Parts, chain: Chain, dtype: Any, shape: tuple[int, ...]) -> tuple[str, str]:
    generator, count = np.random.default_rng(1), _channels(chain)
    scale = (1 + 0.2 * generator.standard_normal(count)).astype(dtype).reshape(shape)
    shift = (0.2 * generator.standard_normal(count)).astype(dtype).reshape(shape)
    return parts.weight("scale", scale), parts.weight("shift", shift)


def _torch_norm(parts: Parts, value: str, chain: Chain) -> str:
    """GroupNorm as torch's exporter writes it."""
    rows, channels, height, width = chain.shape
    ones = parts.weight("ones", np.ones(chain.groups, chain.dtype))
    zeros = parts.weight("zeros", np.zeros(chain.groups, chain.dtype))
    grouped = parts.weight("grouped", np.array([0, chain.groups, -1], np.int64))
    whole = parts.weight("whole", np.array([0, channels, height, width], np.int64))
    scale, shift = _norm_weights(parts, chain, chain.dtype, (1, channels, 1, 1))
    value = parts.add("Reshape", [value, grouped])
    value = parts.add("InstanceNormalization", [value, ones, zeros], epsilon=EPSILON)
    value = parts.add("Reshape", [value, whole])
    return parts.add("Add", [parts.add("Mul", [value, scale]), shift])


def _torch_norm_silu(parts: Parts, value: str, chain: Chain) -> str:
    return _torch_silu(parts, _torch_norm(parts, value, chain), chain)


def _torch_silu(parts: Parts, value: str, chain: Chain) -> str:
    return parts.add("Mul", [value, parts.add("Sigmoid", [value])])


def _quick_gelu(parts: Parts, value: str, chain: Chain) -> str:
    """SiLU in one kernel."""
    return parts.add("QuickGelu", [value], CONTRIB, alpha=1.0)


def _contrib_norm(activation: int) -> Callable[[Parts, str, Chain], str]:
    def add_node(parts: Parts, value: str, chain: Chain) -> str:
        scale, shift = _norm_weights(parts, chain, np.float32, (_channels(chain),))
        settings = {"epsilon": EPSILON, "groups": chain.groups, "activation": activation, "channels_last": 1}
        return parts.add("GroupNorm", [value, scale, shift], CONTRIB, **settings)

    return add_node


def _convolution(has_bias: bool) -> Callable[[Parts, str, Chain], str]:
    def add_node(parts: Parts, value: str, chain: Chain) -> str:
        channels, generator = _channels(chain), np.random.default_rng(2)
        drawn = generator.standard_normal((channels, channels, 3, 3), np.float32) / (3 * channels**0.5)
        inputs = [value, parts.weight("weights", drawn.astype(chain.dtype))]
        if has_bias:
            bias = 0.1 * generator.standard_normal(channels)
            inputs.append(parts.weight("bias", bias.astype(chain.dtype)))
        return parts.add("Conv", inputs, kernel_shape=[3, 3], pads=[1, 1, 1, 1])

    return add_node


def _convolution_and_add(parts: Parts, value: str, chain: Chain) -> str:
    """Add the bias as a separate operator."""
    value = _convolution(False)(parts, value, chain)
    bias = 0.1 * np.random.default_rng(3).standard_normal((1, _channels(chain), 1, 1))
    return parts.add("Add", [value, parts.weight("bias", bias.astype(chain.dtype))])


def _torch_attention(parts: Parts, value: str, chain: Chain) -> str:
    """Attention of tokens [rows, count, width] to themselves, as torch's exporter writes it."""
    rows, count, width = chain.shape
    split = parts.weight("split", np.array([rows, count, chain.heads, width // chain.heads], np.int64))
    joined = parts.weight("joined", np.array([rows, count, width], np.int64))
    scale = parts.weight("scale", np.array((width // chain.heads) ** -0.5, chain.dtype))
    heads = parts.add("Reshape", [value, split])
    query = parts.add("Mul", [parts.add("Transpose", [heads], perm=[0, 2, 1, 3]), scale])
    keys = parts.add("Transpose", [heads], perm=[0, 2, 3, 1])
    values = parts.add("Transpose", [heads], perm=[0, 2, 1, 3])
    shares = parts.add("Softmax", [parts.add("MatMul", [query, keys])], axis=-1)
    mixed = parts.add("MatMul", [shares, values])
    return parts.add("Reshape", [parts.add("Transpose", [mixed], perm=[0, 2, 1, 3]), joined])


def _contrib_attention(parts: Parts, value: str, chain: Chain) -> str:
    return parts.add("MultiHeadAttention", [value, value, value], CONTRIB, num_heads=chain.heads)


OPERATORS: dict[str, Callable[[Parts, str, Chain], str]] = {
    "GroupNorm, exported": _torch_norm,
    "GroupNorm and SiLU, exported": _torch_norm_silu,
    "contrib GroupNorm": _contrib_norm(0),
    "contrib GroupNorm and SiLU": _contrib_norm(1),
    "SiLU, exported": _torch_silu,
    "QuickGelu": _quick_gelu,
    "Conv": _convolution(False),
    "Conv with bias": _convolution(True),
    "Conv and Add": _convolution_and_add,
    "attention, exported": _torch_attention,
    "attention, contrib MultiHeadAttention": _contrib_attention,
}
REFERENCE = {  # by operator: the form that the CPU computes in float32
    "contrib GroupNorm": "GroupNorm, exported",
    "contrib GroupNorm and SiLU": "GroupNorm and SiLU, exported",
    "QuickGelu": "SiLU, exported",
    "attention, contrib MultiHeadAttention": "attention, exported",
}


def chains() -> list[Chain]:
    """Return the timed chains, the most informative first: of small tensors, then of large ones."""
    small, large = (64, 28, 8), (320, 64, 32)  # channels, side, groups
    found = [
        chain for rows in (2, 1) for precision in ("float16", "float32") for chain in _norms(*small, rows, precision)
    ]
    found += _convolutions(*small[:2], "float16")
    found += _attentions((2, 49, 128), 4, 16, 64) + _attentions((2, 4096, 320), 8, 2, 8)
    found += _norms(*large, 2, "float16") + _convolutions(*large[:2], "float16")
    found += _norms(*small, 16, "float16") + _norms(*large, 16, "float16") + _norms(*large, 1, "float16")
    return found + _attentions((2, 1024, 640), 10, 4, 16) + _convolutions(*small[:2], "float32")


def _norms(channels: int, side: int, groups: int, rows: int, precision: str) -> list[Chain]:
    size, last = (rows, channels, side, side), (rows, side, side, channels)
    exported = [name for name in OPERATORS if name.startswith("GroupNorm")]
    contrib = [name for name in OPERATORS if name.startswith("contrib GroupNorm")]
    return [
        *(Chain(name, precision, size, groups) for name in exported),
        *(Chain(name, precision, last, groups) for name in contrib),
        *(Chain(name, precision, size) for name in ("SiLU, exported", "QuickGelu")),
    ]


def _convolutions(channels: int, side: int, precision: str) -> list[Chain]:
    size, kinds = (2, channels, side, side), [name for name in OPERATORS if name.startswith("Conv")]
    return [Chain(name, precision, size, prefer_nhwc=each) for name in kinds for each in (False, True)]


def _attentions(shape: tuple[int, int, int], heads: int, short: int, long: int) -> list[Chain]:
    kinds = [name for name in OPERATORS if name.startswith("attention")]
    return [
        Chain(name, precision, shape, heads=heads, short=short, long=long)
        for precision in ("float16", "float32")
        for name in kinds
    ]
