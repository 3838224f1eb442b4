"""Check that a graph has the inputs and outputs of the manifest, before memory is allocated for their shapes."""

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

from fewstep.plans.errors import UserError
from fewstep.runtime.bundle.manifest import GraphEntry, TensorEntry
from fewstep.runtime.bundle.reading import Bundle

Ports = Callable[[], Sequence[Any]]
TYPES = {  # onnxruntime's name of a type -> the manifest's
    "tensor(float)": "float32",
    "tensor(float16)": "float16",
    "tensor(int64)": "int64",
    "tensor(int32)": "int32",
    "tensor(uint8)": "uint8",
    "tensor(int8)": "int8",
    "tensor(bool)": "bool",
}


class Port(NamedTuple):
    """An input or output of an engine. Its type has onnxruntime's name."""

    name: str
    type: str
    shape: tuple[int | str, ...]


def port_difference(graph: GraphEntry, inputs: Ports, outputs: Ports) -> str | None:
    """Describe how the inputs and outputs of a loaded graph (`Port`, or onnxruntime's `NodeArg`) differ from the
    manifest entry `graph`. None if they do not."""
    for kind, entries, ports in (("inputs", graph.inputs, inputs), ("outputs", graph.outputs, outputs)):
        try:
            described, real = sorted(map(_describe_tensor, entries)), sorted(map(_describe_port, ports()))
        except UnicodeDecodeError:
            return f"{graph.file} has {kind} whose names are not text"
        if described != real:
            return f"{graph.file} has the {kind} {', '.join(real)}, but the manifest says {', '.join(described)}"
    return None


def check_ports(bundle: Bundle, graph: GraphEntry, inputs: Ports, outputs: Ports) -> None:
    """Raise UserError if the inputs or outputs of a loaded graph differ from those in the bundle's manifest."""
    if problem := port_difference(graph, inputs, outputs):
        raise UserError(f"{bundle.path}: {problem}", bundle.export_again)


def _describe_tensor(tensor: TensorEntry) -> str:
    return f"{tensor.name} {tensor.dtype}{list(tensor.shape)}"


def _describe_port(tensor: Any) -> str:
    """Describe an input or output of a session like `_describe_tensor`. Its leading axis may have any name."""
    shape = list(tensor.shape)
    if shape and not isinstance(shape[0], int):
        shape[0] = "batch"
    return f"{tensor.name} {TYPES.get(tensor.type, tensor.type)}{shape}"
