"""Random small denoisers, written as exporters write them, for properties of all graphs."""

from collections.abc import Callable

import numpy as np
from hypothesis import strategies as st

from fewstep.graph.graph import BATCH, Array, Graph, Node, Value

CHANNELS, SIZE, GROUPS = 16, 8, 4
IMAGE = (CHANNELS, SIZE, SIZE)
FLOAT32 = np.dtype(np.float32)


class Writer:
    """The nodes so far. Each block takes the name of a tensor [B, 16, 8, 8] and returns another."""

    def __init__(self, seed: int) -> None:
        self.rng = np.random.default_rng(seed)
        self.nodes: list[Node] = []
        self.constants: dict[str, Array] = {}

    def add(self, op: str, *inputs: str | Array, **attributes: object) -> str:
        """Add a node whose inputs are tensors or constants, and return its output."""
        names = []
        for each in inputs:
            if not isinstance(each, str):
                self.constants[f"c{len(self.constants)}"] = each
                each = f"c{len(self.constants) - 1}"
            names.append(each)
        self.nodes.append(Node(op, tuple(names), (f"t{len(self.nodes)}",), attributes, f"n{len(self.nodes)}"))
        return self.nodes[-1].output

    def weight(self, *shape: int) -> Array:
        return (self.rng.standard_normal(shape) / np.sqrt(np.prod(shape[1:]))).astype(np.float32)

    def conv(self, h: str, into: int = CHANNELS) -> str:
        return self.add("Conv", h, self.weight(CHANNELS, into, 3, 3), self.weight(CHANNELS), pads=[1] * 4)

    def silu(self, h: str) -> str:
        return self.add("Mul", *self.rng.permutation([h, self.add("Sigmoid", h)]).tolist())

    def mish(self, h: str) -> str:
        return self.add("Mul", h, self.add("Tanh", self.add("Softplus", h)))

    def norm(self, h: str) -> str:
        """GroupNorm as torch.onnx writes it, with scale and shift of the channels and of the time."""
        ones, zeros = np.ones(GROUPS, np.float32), np.zeros(GROUPS, np.float32)
        normal = self.add("InstanceNormalization", self.add("Reshape", h, np.array([0, GROUPS, -1])), ones, zeros)
        h = self.add("Mul", self.add("Reshape", normal, self.add("Shape", h)), 1 + self.weight(CHANNELS, 1, 1) / 4)
        return self.add("Add", self.add("Add", h, self.weight(1, CHANNELS, 1, 1)), self.time_number())

    def time_number(self) -> str:
        """Return a number [B, 16, 1, 1] that depends on the time."""
        column = self.add("Unsqueeze", self.add("Mul", "time", np.float32(1e-3)), np.array([1]))
        row = self.add("Gemm", column, self.weight(CHANNELS, 1) + 1, transB=1)
        return self.add("Unsqueeze", row, np.array([2, 3]))

    def attention(self, h: str) -> str:
        """One head, scaled on both sides, with its weights on the right as in published EDM networks, or on the
        left.
        """
        flat = self.add("Reshape", h, np.array([0, CHANNELS, -1]))
        tokens = self.add("Transpose", flat, perm=[0, 2, 1])
        q, k, v = (self.add("MatMul", tokens, self.weight(CHANNELS, CHANNELS)) for _ in range(3))
        root = np.float32(CHANNELS**-0.25)
        k = self.add("Mul", self.add("Transpose", k, perm=[0, 2, 1]), root)
        weights = self.add("Softmax", self.add("MatMul", self.add("Mul", q, root), k), axis=-1)
        if self.rng.random() < 0.5:
            made = self.add("Transpose", self.add("MatMul", weights, v), perm=[0, 2, 1])
        else:
            values, turned = (self.add("Transpose", each, perm=[0, 2, 1]) for each in (v, weights))
            made = self.add("MatMul", values, turned)
        return self.add("Add", h, self.add("Reshape", made, self.add("Shape", h)))

    def skip_connection(self, h: str) -> str:
        """A skip connection, whose parts have separate ranges."""
        return self.conv(self.add("Concat", h, self.silu(self.conv(h)), axis=1), 2 * CHANNELS)

    def halve(self, h: str) -> str:
        small = self.add("Conv", h, self.weight(CHANNELS, CHANNELS, 3, 3), pads=[1] * 4, strides=[2, 2])
        weight = self.weight(CHANNELS, CHANNELS, 2, 2)
        return self.add("Add", h, self.add("ConvTranspose", small, weight, strides=[2, 2]))

    def mix_channels(self, h: str) -> str:
        return self.add("Einsum", h, self.weight(CHANNELS, CHANNELS) * 2, equation=b"bchw,cd->bdhw")


BLOCKS: tuple[Callable[[Writer, str], str], ...] = (
    *(Writer.conv, Writer.silu, Writer.mish, Writer.norm, Writer.attention),
    *(Writer.skip_connection, Writer.halve, Writer.mix_channels),
)


def network(blocks: list[Callable[[Writer, str], str]], seed: int) -> Graph:
    """x [B, 16, 8, 8] and time [B] through these blocks, a convolution before and after them."""
    writer = Writer(seed)
    h = writer.conv("x")
    for block in blocks:
        h = block(writer, h)
    writer.conv(writer.norm(h))
    outputs = (Value(writer.nodes[-1].output, FLOAT32, (BATCH, *IMAGE)),)
    inputs = Value("x", FLOAT32, (BATCH, *IMAGE)), Value("time", FLOAT32, (BATCH,))
    return Graph("random", inputs, outputs, tuple(writer.nodes), writer.constants)


networks = st.builds(network, st.lists(st.sampled_from(BLOCKS), min_size=1, max_size=6), st.integers(0, 2**16))
