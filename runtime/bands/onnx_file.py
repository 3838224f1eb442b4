"""The nodes and weights of an ONNX file, and parts of it as separate models, without the package onnx.

Weights stay in their files until a part that has them is written.
"""

import os
import struct
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from math import prod
from pathlib import Path
from typing import IO, Any

import numpy as np
from numpy.typing import NDArray

from fewstep.plans.errors import UserError
from fewstep.runtime.protobuf import BYTES, FIXED32, VARINT, encode_content, encode_number, read_varint, spans

DTYPES = {1: "<f4", 2: "u1", 3: "i1", 6: "<i4", 7: "<i8", 10: "<f2"}  # by the code of a data type
IR_VERSION = 10
RAW_DATA, EXTERNAL_DATA, DATA_LOCATION = 9, 13, 14  # fields of a tensor
INTEGERS = 7  # code of an attribute that is a list of integers
SMALL = 2**20  # bytes; larger weights are never read as an array

Attribute = int | float | str | tuple[int, ...]
Shape = tuple[int, ...]
FileStamp = tuple[int, int, int]  # the number of a file in its file system, its bytes, and the time of its last change


@dataclass(frozen=True)
class FileNode:
    """An operation. `content` is its message; only attributes that are numbers, integers or text are decoded."""

    op: str
    inputs: tuple[str, ...]
    outputs: tuple[str, ...]
    attributes: Mapping[str, Attribute] = field(default_factory=dict)
    content: bytes = b""

    @property
    def output(self) -> str:
        """The first output, the only one for most operations."""
        return self.outputs[0]


@dataclass(frozen=True)
class Weight:
    """A constant of the graph: its message is `size` bytes of the ONNX file at `start`."""

    name: str
    shape: Shape
    dtype: int
    start: int
    size: int

    @property
    def bytes(self) -> int:
        """Bytes of its numbers, if they are of a type in DTYPES; 4-bit and other types count as one byte each."""
        return prod(self.shape) * np.dtype(DTYPES.get(self.dtype, "u1")).itemsize


@dataclass(frozen=True)
class OnnxFile:
    """A graph in a file, as `read_onnx` returns it.

    imports: the messages of its opsets. stamps: for each file that has weights, what shows that it was replaced later.
    """

    path: Path
    stamps: Mapping[Path, FileStamp]
    nodes: tuple[FileNode, ...]
    weights: Mapping[str, Weight]
    outputs: tuple[str, ...]
    imports: tuple[bytes, ...]

    def array(self, name: str) -> NDArray[Any] | None:
        """Return a small constant; None if it is large or of another type."""
        weight = self.weights[name]
        if weight.dtype not in DTYPES or weight.bytes > SMALL:
            return None
        message = self._message(weight)
        fields = {number: (kind, a, b) for number, kind, a, b in spans(message, 0, len(message))}
        if RAW_DATA not in fields:
            return None
        _, start, end = fields[RAW_DATA]
        return np.frombuffer(message[start:end], DTYPES[weight.dtype]).reshape(weight.shape)

    def write_part(
        self, nodes: Sequence[FileNode], inputs: Mapping[str, NDArray[Any]], outputs: Sequence[str]
    ) -> bytes:
        """Return a model of some nodes, with the weights that they read, for inputs of these types and shapes."""
        names = dict.fromkeys(name for node in nodes for name in node.inputs if name in self.weights)
        graph = (
            *(encode_content(1, node.content) for node in nodes),
            encode_content(2, "part"),
            *(encode_content(5, self._message(self.weights[name])) for name in names),
            *(encode_content(11, _describe_input(name, value)) for name, value in inputs.items()),
            *(encode_content(12, encode_content(1, name)) for name in outputs),
        )
        imports = (encode_content(8, each) for each in self.imports)
        return b"".join((encode_number(1, IR_VERSION), encode_content(7, *graph), *imports))

    def _message(self, weight: Weight) -> bytes:
        """Return the message of a weight, with its numbers in it. Raises UserError if its file was replaced."""
        message = self._read(self.path, weight.start, weight.size)
        fields = list(spans(message, 0, len(message)))
        if all(number != EXTERNAL_DATA for number, *_ in fields):
            return message
        entries = dict(_entry(message, a, b) for number, _, a, b in fields if number == EXTERNAL_DATA)
        place = self.path.parent / entries["location"]
        numbers = self._read(place, int(entries.get("offset", "0")), int(entries.get("length", "-1")))
        dims = b"".join(encode_number(1, size) for size in weight.shape)
        head = (dims, encode_number(2, weight.dtype), encode_content(8, weight.name))
        return b"".join((*head, encode_content(RAW_DATA, numbers)))

    def _read(self, path: Path, start: int, size: int) -> bytes:
        """Return bytes of a file, all up to its end for size -1."""
        try:
            with path.open("rb") as file:
                if _stamp(file) != self.stamps[path]:
                    raise FileNotFoundError("another file has its name")
                file.seek(start)
                return file.read(size)
        except OSError as error:
            raise UserError(f"{path} has changed since it was loaded: {error}", "load the bundle again") from error


def make_node(op: str, inputs: Sequence[str], output: str) -> FileNode:
    """Return a new node without attributes."""
    parts = (*(encode_content(1, name) for name in inputs), encode_content(2, output), encode_content(4, op))
    return FileNode(op, tuple(inputs), (output,), {}, b"".join(parts))


def without_row_padding(node: FileNode) -> FileNode:
    """Return a convolution without padding above and below the image."""
    pads = node.attributes.get("pads", (0, 0, 0, 0))
    assert isinstance(pads, tuple), "it was read from a list of integers"
    _, left, _, right = pads
    parts = []
    for number, kind, start, end in spans(node.content, 0, len(node.content)):
        content = node.content[start:end]
        if kind == BYTES and not (number == 5 and _texts(content, 1) == ["pads"]):
            parts.append(encode_content(number, content))
    sizes = b"".join(encode_number(8, size) for size in (0, left, 0, right))
    parts.append(encode_content(5, encode_content(1, "pads"), sizes, encode_number(20, INTEGERS)))
    return replace(node, attributes={**node.attributes, "pads": (0, left, 0, right)}, content=b"".join(parts))


def read_onnx(path: Path) -> OnnxFile:
    """Read the nodes of an ONNX file, and where its weights are. Raises ValueError if it is not a model."""
    import mmap

    with path.open("rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as data:
        stamps, graphs, imports = {path: _stamp(file)}, [], []
        for number, kind, start, end in spans(data, 0, len(data)):
            if number == 7 and kind == BYTES:
                graphs.append((start, end))
            elif number == 8 and kind == BYTES:
                imports.append(data[start:end])
        if len(graphs) != 1:
            raise ValueError("it has no graph")
        nodes, weights, outputs, places = [], {}, [], set[Path]()
        for number, _, start, end in spans(data, *graphs[0]):
            if number == 1:
                nodes.append(_read_node(data[start:end]))
            elif number == 5:
                weight = _read_weight(data, start, end)
                weights[weight.name] = weight
                places |= {path.parent / location for location in _locations(data, start, end)}
            elif number == 12:
                outputs.append(_texts(data[start:end], 1)[0])
    for place in places:
        with place.open("rb") as file:
            stamps[place] = _stamp(file)
    return OnnxFile(path, stamps, tuple(nodes), weights, tuple(outputs), tuple(imports))


def _stamp(file: IO[bytes]) -> FileStamp:
    status = os.fstat(file.fileno())
    return status.st_ino, status.st_size, status.st_mtime_ns


def _read_node(content: bytes) -> FileNode:
    ops = _texts(content, 4)
    attributes = [content[a:b] for number, _, a, b in spans(content, 0, len(content)) if number == 5]
    decoded = dict(pair for attribute in attributes if (pair := _read_attribute(attribute)) is not None)
    return FileNode(ops[0] if ops else "", tuple(_texts(content, 1)), tuple(_texts(content, 2)), decoded, content)


def _read_attribute(content: bytes) -> tuple[str, Attribute] | None:
    """Return the name and value of an attribute; None for tensors, graphs and other lists."""
    name = ""
    value: Attribute | None = None
    integers: list[int] = []
    for number, kind, start, end in spans(content, 0, len(content)):
        if number == 1:
            name = content[start:end].decode(errors="replace")
        elif number == 2 and kind == FIXED32:
            value = float(struct.unpack("<f", content[start:end])[0])
        elif number == 3 and kind == VARINT:
            value = _to_signed(read_varint(content, start, end)[0])
        elif number == 4 and kind == BYTES:
            value = content[start:end].decode(errors="replace")
        elif number == 8:
            integers += _integers(content, kind, start, end)
    if integers:
        value = tuple(integers)
    return None if value is None else (name, value)


def _read_weight(data: Any, start: int, end: int) -> Weight:
    name, shape, dtype = "", [], 0
    for number, kind, first, last in spans(data, start, end):
        if number == 1:
            shape += _integers(data, kind, first, last)
        elif number == 2:
            dtype = read_varint(data, first, last)[0]
        elif number == 8:
            name = data[first:last].decode(errors="surrogateescape")
    return Weight(name, tuple(shape), dtype, start, end - start)


def _locations(data: Any, start: int, end: int) -> Iterator[str]:
    """Yield the file of a weight's numbers, if it is another one."""
    for number, _, first, last in spans(data, start, end):
        if number == EXTERNAL_DATA:
            key, value = _entry(data, first, last)
            if key == "location":
                yield value


def _integers(data: Any, kind: int, start: int, end: int) -> list[int]:
    """Return the integers of a repeated field, which may be packed."""
    values = []
    while start < end:
        value, start = read_varint(data, start, end)
        values.append(_to_signed(value))
    return values


def _to_signed(value: int) -> int:
    return value - 2**64 if value >= 2**63 else value


def _texts(content: bytes, field_number: int) -> list[str]:
    return [
        content[a:b].decode(errors="surrogateescape")
        for number, kind, a, b in spans(content, 0, len(content))
        if number == field_number and kind == BYTES
    ]


def _entry(content: Any, start: int, end: int) -> tuple[str, str]:
    """Return the key and the value of an entry of external data."""
    message = content[start:end]
    return _texts(message, 1)[0], (_texts(message, 2) or [""])[0]


def _describe_input(name: str, value: NDArray[Any]) -> bytes:
    """Return the message of an input with the type and shape of an array. Raises ValueError for a type that is not in
    DTYPES."""
    codes = [code for code, dtype in DTYPES.items() if np.dtype(dtype) == value.dtype]
    if not codes:
        raise ValueError(f"{name} has the type {value.dtype}")
    sizes = b"".join(encode_content(1, encode_number(1, size)) for size in value.shape)
    tensor = encode_number(1, codes[0]) + encode_content(2, sizes)
    return encode_content(1, name) + encode_content(2, encode_content(1, tensor))
