"""A prepared body with all that a lowering has to handle, small enough to run in a millisecond, and its ranges."""

import tempfile
from collections.abc import Iterable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime as ort

from fewstep.calibration.lowering.encoding import eight_bit_name
from fewstep.calibration.ranges.observe import expose_tensors, tensors_to_observe
from fewstep.calibration.ranges.table import Range, Ranges, RangesTable
from fewstep.graph.files.io import save
from fewstep.graph.graph import BATCH, Array, Graph, Node
from fewstep.graph.session import GraphSession, run
from tests.bundles import value
from tests.onnx_text import graph_of_text

SELECTED = ("h2", "shortcut", "mixed", "h3")  # what the rule takes: neither first nor last, 16 channels or more
SIZE = 8  # of each spatial axis
FACTORS = (0.4, 0.7, 1.0)  # ranges of each lambda group, relative to what was seen
EDGES = (-1.0, 1.0)


class Builder:
    """Append nodes with random weights. Each method returns the name of its output."""

    def __init__(self, spatial: int) -> None:
        self.rng = np.random.default_rng(0)
        self.spatial = spatial
        self.nodes: list[Node] = []
        self.constants: dict[str, Array] = {}

    def add(self, op: str, inputs: tuple[str, ...], name: str, **attributes: object) -> str:
        self.nodes.append(Node(op, inputs, (name,), attributes, name))
        return name

    def random(self, name: str, *shape: int, scale: float) -> str:
        self.constants[name] = (scale * self.rng.standard_normal(shape)).astype(np.float32)
        return name

    def conv(self, x: str, name: str, into: int, out: int, kernel: int = 3, stride: int = 1) -> str:
        """A convolution, followed by its bias as in prepared graphs."""
        taps = [kernel] * self.spatial
        weight = self.random(f"{name}.weight", out, into, *taps, scale=(into * kernel**self.spatial) ** -0.5)
        self.add("Conv", (x, weight), name, pads=[kernel // 2] * 2 * self.spatial, strides=[stride] * self.spatial)
        return self.add(
            "Add", (name, self.random(f"{name}.bias", 1, out, *[1] * self.spatial, scale=0.1)), f"{name}_biased"
        )

    def silu(self, x: str, name: str) -> str:
        return self.add("Mul", (x, self.add("Sigmoid", (x,), f"{name}_gate")), name)

    def graph(self, *x: int, out: tuple[int, ...] | None = None, **rows: tuple[int, ...]) -> Graph:
        """Return the graph from x [B, ...] and other inputs to the output, which by default has the shape of x."""
        inputs = (value(name, BATCH, *shape) for name, shape in {"x": x, **rows}.items())
        return Graph("body", (*inputs,), (value("output", BATCH, *(out or x)),), tuple(self.nodes), self.constants)


def body(spatial: int = 2) -> Graph:
    """x [B, 3, 8, 8] and a row -> output: a shortcut around a convolution, a linear layer over the pixels, a Resize."""
    b = Builder(spatial)
    image = [SIZE] * spatial
    b.constants |= {"flat": np.array([0, 32, SIZE**spatial]), "image": np.array([0, 32, *image])}
    b.constants["factors"] = np.array([1, 1, *[2] * spatial], np.float32)
    a1 = b.silu(b.conv("x", "h1", 3, 16), "a1")
    shortcut = b.conv(a1, "shortcut", 16, 32, kernel=1)
    a2 = b.silu(b.add("Mul", (b.conv(a1, "h2", 16, 32), "row"), "modulated"), "a2")
    tokens = b.add("Transpose", (b.add("Reshape", (a2, "flat"), "flattened"),), "tokens", perm=[0, 2, 1])
    mixed = b.add("MatMul", (tokens, b.random("mixed.weight", 32, 32, scale=0.2)), "mixed")
    mixed = b.add("Add", (mixed, b.random("mixed.bias", 32, scale=0.1)), "mixed_biased")
    mixed = b.add("Reshape", (b.add("Transpose", (mixed,), "back", perm=[0, 2, 1]), "image"), "unflattened")
    a3 = b.silu(b.add("Add", (mixed, shortcut), "residual"), "a3")
    up = b.add("Resize", (b.conv(a3, "h3", 32, 16, stride=2), "", "factors"), "up", mode=b"nearest")
    b.add("Identity", (b.conv(up, "h4", 16, 3),), "output")
    return b.graph(3, *image, row=(32, *[1] * spatial))


def prologue() -> Graph:
    """row = time in every channel."""
    text = (
        "(float[batch] time) => (float[batch, 32, 1, 1] row) { times = Reshape(time, column) row = Mul(times, ones) }"
    )
    return graph_of_text(text, column=np.array([-1, 1, 1, 1]), ones=np.ones((1, 32, 1, 1)))


def edit_nodes(
    graph: Graph, names: str, *inputs: str, constants: Mapping[str, Array] | None = None, **more: Any
) -> Graph:
    """Return the graph in which nodes with these output names have other inputs and attributes; None removes one."""

    def other(node: Node) -> Node:
        attributes = {name: each for name, each in {**node.attributes, **more}.items() if each is not None}
        return replace(node, inputs=(*node.inputs, *inputs), attributes=attributes)

    nodes = [other(node) if node.output in names.split() else node for node in graph.nodes]
    return graph.with_nodes(nodes, constants or {})


def feeds(graph: Graph, batch: int = 4) -> dict[str, Array]:
    rng = np.random.default_rng(1)
    return {
        port.name: rng.standard_normal([batch if dim == BATCH else dim for dim in port.shape]).astype(np.float32)
        for port in graph.inputs
        if port.dtype == np.float32
    }


def table(graph: Graph, edges: tuple[float, ...] = ()) -> RangesTable:
    """Return min-max ranges of all tensors that any target observes; with edges, narrower ones per group."""
    observed = tensors_to_observe(graph, no_floats=True)
    values = run(expose_tensors(graph, observed), feeds(graph)) | feeds(graph)
    factors = FACTORS if edges else FACTORS[-1:]

    def ranges(seen: Array) -> Ranges:
        low, high = min(float(seen.min()), 0.0), max(float(seen.max()), 1e-6)
        amax = max(-low, high)
        groups = tuple(Range(low * factor, high * factor) for factor in factors)
        return Ranges(Range(low, high), groups, amax, tuple(amax * factor for factor in factors))

    tensors = {name: ranges(values[name]) for name in observed}
    tensors |= {eight_bit_name(name): tensors[name] for name in observed}
    return RangesTable("0" * 64, "ddim:3", edges, "minmax", tensors)


def without(ranges: RangesTable, tensor: str) -> RangesTable:
    return replace(ranges, tensors={name: r for name, r in ranges.tensors.items() if name != tensor})


def open_simulation(graph: Graph, also: Iterable[str] = ()) -> GraphSession:
    """Open a session that rounds only at Q/DQ pairs. It also returns the inner tensors `also`."""
    options = ort.SessionOptions()
    options.log_severity_level = 3
    options.add_session_config_entry("session.disable_quant_qdq", "1")
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "graph.onnx"
        save(graph, path, also=also)
        return GraphSession(ort.InferenceSession(path, options, providers=["CPUExecutionProvider"]))


def sqnr(expected: Array, found: Array) -> float:
    """Return the signal-to-quantization-noise ratio in dB."""
    error = np.square(expected.astype(np.float64) - found).sum()
    return float(10 * np.log10(np.square(expected.astype(np.float64)).sum() / error))
