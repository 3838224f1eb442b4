"""Files for a machine with a GPU, which numpy reads: fused graphs, and a plan with its noise and samples.

A folder of a denoiser has graphs in int8 (one, or one for each interval of steps) and one in half precision, and
`run.npz`. Reading them needs neither onnx nor onnxruntime.
"""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from fewstep.graph.graph import Array, Graph, Node, Value

HALF, RUN = "half.npz", "run.npz"
BFLOAT16 = "bfloat16"
BODY, FLOAT32 = "int8-tensorrt", "float32"  # bodies of a bundle


def save_graph(graph: Graph, file: Path) -> None:
    """Write a graph whose attributes are numbers, texts and lists of them."""
    names = {name: f"c{number}" for number, name in enumerate(graph.constants)}
    bfloat16 = [name for name, array in graph.constants.items() if array.dtype.name == BFLOAT16]
    fields = {
        "name": graph.name,
        "inputs": [_value(port) for port in graph.inputs],
        "outputs": [_value(port) for port in graph.outputs],
        "nodes": [
            [node.op, node.inputs, node.outputs, _attributes(node.attributes), node.domain] for node in graph.nodes
        ],
        "constants": names,
        "bfloat16": bfloat16,
    }
    arrays = {key: graph.constants[name] for name, key in names.items()}
    arrays |= {names[name]: arrays[names[name]].view(np.int16) for name in bfloat16}  # numpy stores no bfloat16
    np.savez_compressed(file, graph=_text(fields), **arrays)  # type: ignore[arg-type]


def load_graph(file: Path) -> Graph:
    """The graph of `save_graph`."""
    with np.load(file) as stored:
        fields = _parse_json(stored["graph"])
        constants = {name: np.asarray(stored[key]) for name, key in fields["constants"].items()}
    if short := fields.get("bfloat16"):
        import ml_dtypes  # gives numpy the type

        constants |= {name: constants[name].view(ml_dtypes.bfloat16) for name in short}
    inputs, outputs = (
        tuple(Value(name, np.dtype(kind), tuple(shape)) for name, kind, shape in fields[key])
        for key in ("inputs", "outputs")
    )
    nodes = tuple(
        Node(
            op,
            tuple(inputs),
            tuple(outputs),
            {name: _attribute(value) for name, value in attributes.items()},
            "",
            domain,
        )
        for op, inputs, outputs, attributes, domain in fields["nodes"]
    )
    return Graph(fields["name"], inputs, outputs, nodes, constants)


def _value(value: Value) -> list[Any]:
    return [value.name, value.dtype.name, value.shape]


def _attributes(attributes: Mapping[str, Any]) -> dict[str, Any]:
    return {
        name: {"bytes": value.decode()} if isinstance(value, bytes) else value for name, value in attributes.items()
    }


def _attribute(value: Any) -> Any:
    if isinstance(value, dict):
        return value["bytes"].encode()
    return tuple(value) if isinstance(value, list) else value


def _text(fields: Any) -> Array:
    return np.frombuffer(json.dumps(fields).encode(), np.uint8)


def _parse_json(array: Array) -> Any:
    return json.loads(array.tobytes())


@dataclass(frozen=True)
class StepRows:
    """A step of a plan: its input and new state are sums of tensors by these numbers.

    input: of the tensors of the state. update: of the state, then of the outputs of the branches. graph: which graph in
    int8 runs the step.
    """

    input: tuple[float, ...]
    update: tuple[tuple[float, ...], ...]
    graph: int


@dataclass(frozen=True)
class PreparedRun:
    """A plan that is sums of tensors, with all that its steps read.

    x: the name of a body's input. start, output: rows of the plan. branches: rows of a body for each sample. noise:
    [seeds, ...]. feeds: of each step, other inputs of the body, [branches * seeds, ...] branch by branch. expected: by
    the name of a body on the CPU, samples [seeds, ...].
    """

    x: str
    start: tuple[tuple[float, ...], ...]
    steps: tuple[StepRows, ...]
    output: tuple[float, ...]
    branches: int
    noise: Array
    feeds: tuple[Mapping[str, Array], ...]
    expected: Mapping[str, Array]

    def save(self, folder: Path) -> None:
        fields = {
            "x": self.x,
            "start": self.start,
            "steps": [[step.input, step.update, step.graph] for step in self.steps],
            "output": self.output,
            "branches": self.branches,
            "names": list(self.feeds[0]),
        }
        arrays = {"noise": self.noise, **{f"expected {name}": array for name, array in self.expected.items()}}
        for number, feeds in enumerate(self.feeds):
            arrays |= {f"{number} {name}": array for name, array in feeds.items()}
        np.savez_compressed(folder / RUN, run=_text(fields), **arrays)  # type: ignore[arg-type]


def load_run(folder: Path) -> PreparedRun:
    """The run of `PreparedRun.save`."""
    with np.load(folder / RUN) as stored:
        fields = _parse_json(stored["run"])
        arrays = {name: np.asarray(stored[name]) for name in stored.files}
    steps = tuple(StepRows(tuple(each[0]), _rows(each[1]), each[2]) for each in fields["steps"])
    feeds = tuple({name: arrays[f"{number} {name}"] for name in fields["names"]} for number in range(len(steps)))
    expected = {name.removeprefix("expected "): array for name, array in arrays.items() if name.startswith("expected ")}
    start, output = _rows(fields["start"]), tuple(fields["output"])
    return PreparedRun(fields["x"], start, steps, output, fields["branches"], arrays["noise"], feeds, expected)


def _rows(rows: Sequence[Sequence[float]]) -> tuple[tuple[float, ...], ...]:
    return tuple(map(tuple, rows))


def int8_files(folder: Path) -> list[Path]:
    """The graphs in int8, in the order of their steps."""
    return sorted(folder.glob("int8-*.npz"))
