"""The smallest models on which HTP's arithmetic leaves ONNX's, and the forms that hold; see docs/measured/npu.md.

    python -m benchmarks.npu.faults [--model FILE.onnx]

Each line is the distance of HTP, executed on this CPU by onnxruntime-qnn, from ONNX's arithmetic on the same graph.
--model writes the model of the first line, for a report of the fault, and measures nothing.
"""

import tempfile
from collections.abc import Mapping
from pathlib import Path

import numpy as np

from benchmarks import options
from fewstep.graph.graph import Array, Graph, Node, Value
from fewstep.graph.io import save
from fewstep.graph.session import open_session
from fewstep.runtime.backends.qnn import Qnn

CONTRIB = "com.microsoft"
FLOAT = np.dtype(np.float32)
TALL = (1, 32, 7, 7)


class Pairs:
    """A graph in the making, in which every tensor has a pair."""

    def __init__(self) -> None:
        self.nodes: list[Node] = []
        self.inputs: list[Value] = []
        self.constants: dict[str, Array] = {}

    def pair(self, name: str, scale: float, zero: np.integer) -> str:
        """The tensor after its way to an integer and back."""
        result = f"{name}_{zero.dtype}_{scale:.4g}"
        code = f"{result}_scale", f"{result}_zero"
        self.constants |= {code[0]: np.array(scale, np.float32), code[1]: np.asarray(zero)}
        self.nodes.append(Node("QuantizeLinear", (name, *code), (f"{result}_q",), domain=CONTRIB))
        self.nodes.append(Node("DequantizeLinear", (f"{result}_q", *code), (result,), domain=CONTRIB))
        return result

    def sixteen(self, name: str, low: float, high: float) -> str:
        scale = (high - low) / (2**16 - 1)
        return self.pair(name, scale, np.uint16(round(-low / scale)))

    def input(self, name: str, *shape: int) -> str:
        self.inputs.append(Value(name, FLOAT, shape))
        return self.sixteen(name, -6.0, 6.0)

    def constant(self, name: str, values: Array, scale: float, zero: np.integer) -> str:
        ends, code = np.iinfo(zero.dtype), (f"{name}_q", f"{name}_scale", f"{name}_zero")
        integers = np.clip(np.rint(values / scale) + int(zero), ends.min, ends.max).astype(zero.dtype)
        self.constants |= zip(code, (integers, np.array(scale, np.float32), np.asarray(zero)), strict=True)
        self.nodes.append(Node("DequantizeLinear", code, (name,), domain="" if zero.dtype == np.int32 else CONTRIB))
        return name

    def op(self, op: str, *inputs: str, **attributes: object) -> str:
        result = f"{op}_{len(self.nodes)}"
        self.nodes.append(Node(op, inputs, (result,), attributes))
        return result

    def graph(self, result: str, shape: tuple[int, ...]) -> Graph:
        return Graph("fault", tuple(self.inputs), (Value(result, FLOAT, shape),), tuple(self.nodes), self.constants)

    def distance(self, result: str, shape: tuple[int, ...]) -> float:
        """dB between the two arithmetics, on normal numbers."""
        graph = self.graph(result, shape)
        rng = np.random.default_rng(0)
        feeds = {value.name: rng.standard_normal(value.shape).astype(np.float32) for value in self.inputs}
        with tempfile.TemporaryDirectory() as folder:
            save(graph, Path(folder) / "fault.onnx")
            computed = Qnn().open("the graph", str(Path(folder) / "fault.onnx"), {})(feeds)[result]
        expected = open_session(graph, fuse_qdq=False)(feeds)[result].astype(np.float64)
        return float(10 * np.log10(np.square(expected).sum() / np.square(expected - computed).sum()))


def silu(shape: tuple[int, ...], wider: float | None = None) -> float:
    model = Pairs()
    return model.distance(lay_silu(model, shape, wider), shape)


def lay_silu(model: Pairs, shape: tuple[int, ...], wider: float | None = None) -> str:
    """t = a + b; t * Sigmoid(t); the product reads t through a second pair if `wider` is its factor."""
    t = model.sixteen(model.op("Add", model.input("a", *shape), model.input("b", *shape)), -6.0, 6.0)
    gate = model.pair(model.op("Sigmoid", t), 2**-16, np.uint16(0))
    again = t if wider is None else model.pair(t, 12 * wider / (2**16 - 1), np.uint16(2**15))
    return model.sixteen(model.op("Mul", again, gate), -0.3, 6.0)


def product(second: str) -> float:
    model = Pairs()
    x, y = model.input("x", 1, 4, 49, 32), model.input("y", 1, 4, 32, 49)
    if second != "uint16":
        zero = np.dtype(second).type(128 if second == "uint8" else 0)
        y = model.pair(y, 6 / np.iinfo(np.int16).max if second == "int16" else 12 / 255, zero)
    return model.distance(model.sixteen(model.op("MatMul", x, y), -40.0, 40.0), (1, 4, 49, 49))


def norm(op: str, shape: tuple[int, ...], scale_type: str, shift_type: str) -> float:
    model, rng = Pairs(), np.random.default_rng(1)
    is_layer = op == "LayerNormalization"
    size = shape[-1] if is_layer else shape[1]
    numbers = rng.normal(1, 0.3, size) if is_layer else np.ones(size)
    shifts = rng.normal(0, 0.3, size) if is_layer else np.zeros(size)
    x = model.input("x", *shape)
    step = float(numbers.max()) / np.iinfo(scale_type).max
    scale = model.constant("scale", numbers, step, np.dtype(scale_type).type(0))
    if shift_type == "int32":
        shift = model.constant("shift", shifts, 12 / (2**16 - 1) * step, np.int32(0))
    else:
        shift = model.constant("shift", shifts, 2.0 / (2**16 - 1), np.uint16(2**15))
    attributes = {"axis": -1} if is_layer else {}
    return model.distance(model.sixteen(model.op(op, x, scale, shift, **attributes), -8.0, 8.0), shape)


def added(values: Array, has_own_scale: bool) -> float:
    model, shape = Pairs(), (1, max(values.size, 1), 28, 28)
    x = model.input("x", *shape)
    low, high = min(float(values.min()), 0.0), max(float(values.max()), 0.0)
    scale = (high - low if has_own_scale else 12.0) / (2**16 - 1)
    zero = np.uint16(round(-low / scale)) if has_own_scale else np.uint16(2**15)
    shift = model.constant("shift", values.reshape(1, -1, 1, 1), scale, zero)
    return model.distance(model.sixteen(model.op("Add", x, shift), -6.0, 6.0), shape)


def lines() -> Mapping[str, float]:
    tall, channels = TALL, np.random.default_rng(2).normal(0, 0.1, 64)
    layer, instance = ("LayerNormalization", (1, 49, 64)), ("InstanceNormalization", (1, 8, 784))
    return {
        "SiLU [1, 32, 7, 7]": silu(tall),
        "SiLU [1, 7, 7, 32]": silu((1, 7, 7, 32)),
        "SiLU [1, 32, 7, 7], second pair": silu(tall, wider=1.01),
        **{f"product of activations, second {kind}": product(kind) for kind in ("uint16", "int16", "uint8")},
        "InstanceNormalization, shift uint16": norm(*instance, "uint16", "uint16"),
        "InstanceNormalization, shift int32": norm(*instance, "uint16", "int32"),
        "LayerNormalization, uint16 and uint16": norm(*layer, "uint16", "uint16"),
        "LayerNormalization, int16 and int32": norm(*layer, "int16", "int32"),
        "a number is added, of its own scale": added(np.array([0.0327]), has_own_scale=True),
        "a number is added, of the other's scale": added(np.array([0.0327]), has_own_scale=False),
        "64 numbers are added, of their own scale": added(channels, has_own_scale=True),
        "64 numbers are added, of the other's scale": added(channels, has_own_scale=False),
    }


def main() -> None:
    parser = options.parser_of(__doc__)
    parser.add_argument("--model", type=Path, help="the file to write")
    file = parser.parse_args().model
    if file is not None:
        model = Pairs()
        save(model.graph(lay_silu(model, TALL), TALL), file)
        return
    for name, distance in lines().items():
        print(f"{name}: {distance:.1f} dB", flush=True)


if __name__ == "__main__":
    main()
