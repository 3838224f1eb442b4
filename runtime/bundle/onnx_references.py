"""The files that an ONNX file refers to, read from its bytes without loading it.

onnxruntime before 1.23 opens any file that a graph names for its weights, wherever it is. So the bundle asks first.
Only the messages that can hold a tensor are entered.
"""

import mmap
from collections.abc import Iterator
from pathlib import Path

VARINT, FIXED64, BYTES, FIXED32 = 0, 1, 2, 5  # kinds of fields
WIDTH = {FIXED64: 8, FIXED32: 4}
KEY = b"location"  # of the entry that names a file
DEPTH = 100  # of messages in messages; protobuf itself reads no deeper
ENTERED: dict[str, dict[int, str]] = {  # message -> field number -> message (onnx.proto)
    "model": {7: "graph", 20: "training", 25: "function"},
    "training": {1: "graph", 2: "graph"},
    "graph": {1: "node", 5: "tensor", 15: "sparse"},
    "function": {7: "node", 11: "attribute"},
    "node": {5: "attribute"},
    "attribute": {5: "tensor", 6: "graph", 10: "tensor", 11: "graph", 22: "sparse", 23: "sparse"},
    "sparse": {1: "tensor", 2: "tensor"},
    "tensor": {13: "entry"},
}


def external_data_files(path: Path) -> frozenset[str]:
    """The locations of external weights in an ONNX file, as written there. ValueError if it is not protobuf."""
    with path.open("rb") as file:
        if path.stat().st_size == 0:  # which cannot be mapped
            raise ValueError("it is empty")
        with mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as data:
            if data.find(KEY) < 0:  # nearly always: graphs without a weight file are done here
                return frozenset()
            return frozenset(_locations(data, 0, len(data), "model", DEPTH))


def _locations(data: mmap.mmap, start: int, end: int, message: str, depth: int) -> Iterator[str]:
    if depth == 0:
        raise ValueError("it is nested too deep")
    for number, kind, first, last in _spans(data, start, end):
        inner = ENTERED[message].get(number) if kind == BYTES else None
        if inner == "entry":
            strings = [
                data[a:b] for field, kind, a, b in _spans(data, first, last) if kind == BYTES and field in (1, 2)
            ]
            if KEY in strings:
                yield from (each.decode(errors="surrogateescape") for each in strings if each != KEY)
        elif inner is not None:
            yield from _locations(data, first, last, inner, depth - 1)


def _spans(data: mmap.mmap, start: int, end: int) -> Iterator[tuple[int, int, int, int]]:
    """(number, kind, start, end) of each field's content. ValueError if there is no message."""
    place = start
    while place < end:
        tag, place = _varint(data, place, end)
        kind = tag & 7
        if kind == VARINT:
            size = _varint(data, place, end)[1] - place
        elif kind == BYTES:
            size, place = _varint(data, place, end)
        elif kind in WIDTH:
            size = WIDTH[kind]
        else:
            raise ValueError(f"it has a field of type {kind}")
        if size > end - place:
            raise ValueError("it is cut off")
        yield tag >> 3, kind, place, place + size
        place += size


def _varint(data: mmap.mmap, place: int, end: int) -> tuple[int, int]:
    """A number in base 128, least significant first, and the place behind it."""
    value = 0
    for shift in range(0, 70, 7):
        if place >= end:
            raise ValueError("it is cut off")
        byte = data[place]
        place += 1
        value |= (byte & 0x7F) << shift
        if byte < 0x80:
            return value, place
    raise ValueError("it has a number of more than 64 bits")
