"""Graphs in the form that OpenVINO reads rightly, and the operations that it computes wrong, by name.

Measured against onnxruntime 1.31.1 in OpenVINO 2026.4.1, on the CPU:

DFT, whose axis is an input since opset 20: OpenVINO ignores the input and takes axis 1 (differences of 100 % and more).
It heeds the attribute of opset 17, in a graph of opset 20 too. A one-sided DFT of real numbers keeps their axis of
length 1, and its inverse returns none. So the attribute is written next to the input, and the axis taken away or added.

Resize with antialias=1 that shrinks differs by 60 to 170 %, one with exclude_outside=1 by 3 to 9 %.
"""

import mmap
from collections.abc import Iterator
from pathlib import Path

from fewstep.runtime.backends.onnx_messages import (
    GRAPH_CONSTANT,
    GRAPH_NODE,
    MODEL_GRAPH,
    NODE_ATTRIBUTE,
    NODE_INPUT,
    NODE_OP,
    NODE_OUTPUT,
    NodeMessage,
    field,
    inside,
    int_attribute,
    int_tensor,
    node,
    scalars,
)
from fewstep.runtime.bundle.protobuf import BYTES, Value, fields

CONCERNED = (b"DFT", b"Resize")  # operations; a file without their names is as it should be
RESIZE = ("antialias", "exclude_outside")


def readable(file: Path) -> bytes | None:
    """The graph of a file with every DFT in the form that OpenVINO reads; None where the file itself is."""
    if not _has(file, b"DFT"):
        return None
    content = file.read_bytes()
    try:
        changed = b"".join(
            _rewritten(value) if number == MODEL_GRAPH and isinstance(value, bytes) else field(number, value, kind)
            for number, kind, value in fields(content)
        )
    except ValueError:  # no ONNX file: whoever reads it says so
        return None
    return None if changed == content else changed


def computed_wrong(file: Path) -> tuple[str, ...]:
    """The operations in a graph's file that OpenVINO is known to compute wrong, in words."""
    if not _has(file, *CONCERNED):
        return ()
    try:
        return tuple(said for graph in inside(file.read_bytes(), MODEL_GRAPH) for said in _wrong(graph))
    except ValueError:
        return ()


def _has(file: Path, *names: bytes) -> bool:
    """True if any of the names stands in a file, wherever: nearly always nothing else has to be read."""
    with file.open("rb") as stream:
        if not file.stat().st_size:  # which cannot be mapped
            return False
        with mmap.mmap(stream.fileno(), 0, access=mmap.ACCESS_READ) as data:
            return any(data.find(name) >= 0 for name in names)


def _wrong(graph: bytes) -> Iterator[str]:
    constants = scalars(graph)
    for message in inside(graph, GRAPH_NODE):
        operation = node(message)
        if operation is None:
            continue
        flags = [name for name in RESIZE if operation.attributes.get(name)]
        if operation.op == "Resize" and flags:
            yield f"Resize {operation.label!r} with {' and '.join(flags)}"
        if operation.op == "DFT" and _axis(operation, constants) is None:
            yield f"DFT {operation.label!r} along an axis that is no constant from 0 up"


def _axis(operation: NodeMessage, constants: dict[str, int]) -> int | None:
    """The axis of a DFT, counted from the first. OpenVINO counts from the last without the complex one."""
    if len(operation.inputs) < 3 or not operation.inputs[2]:
        return None
    axis = constants.get(operation.inputs[2])
    return None if axis is None or axis < 0 else axis


def _rewritten(graph: bytes) -> bytes:
    constants, parts = scalars(graph), []
    for number, kind, value in fields(graph):
        operation = node(value) if number == GRAPH_NODE and isinstance(value, bytes) else None
        axis = _axis(operation, constants) if operation is not None and operation.op == "DFT" else None
        if operation is None or axis is None or not isinstance(value, bytes) or "axis" in operation.attributes:
            parts.append(field(number, value, kind))
        else:
            parts.extend(_dft(operation, value, axis))
    return field(MODEL_GRAPH, b"".join(parts))


def _dft(dft: NodeMessage, message: bytes, axis: int) -> Iterator[bytes]:
    """The fields of the graph that take the place of one DFT: its node, and what mends the shape behind it."""
    attribute = field(NODE_ATTRIBUTE, int_attribute("axis", axis))
    if not dft.attributes.get("onesided"):
        yield field(GRAPH_NODE, message + attribute)
        return
    (output,), is_inverse = dft.outputs, bool(dft.attributes.get("inverse"))
    raw, axes = f"raw({output})", f"axes({output})"
    yield field(GRAPH_NODE, b"".join(_with_output(each, raw) for each in fields(message)) + attribute)
    yield field(GRAPH_CONSTANT, int_tensor(axes, -1 if is_inverse else -2))
    shape = field(NODE_INPUT, raw) + field(NODE_INPUT, axes) + field(NODE_OUTPUT, output)
    yield field(GRAPH_NODE, shape + field(NODE_OP, "Unsqueeze" if is_inverse else "Squeeze"))


def _with_output(each: tuple[int, int, Value], name: str) -> bytes:
    number, kind, value = each
    return field(number, name, BYTES) if number == NODE_OUTPUT else field(number, value, kind)
