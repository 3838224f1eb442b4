"""List the files that an ONNX file refers to, read from its bytes without loading it.

onnxruntime before 1.23 opens any file that a graph names for its weights, wherever it is. So the bundle asks first.
Only the messages that can hold a tensor are entered.
"""

import mmap
from collections.abc import Iterator
from pathlib import Path

from fewstep.runtime.bundle.protobuf import BYTES, spans

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


def referred_files(path: Path) -> frozenset[str]:
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
    for number, kind, first, last in spans(data, start, end):
        inner = ENTERED[message].get(number) if kind == BYTES else None
        if inner == "entry":
            strings = [data[a:b] for field, kind, a, b in spans(data, first, last) if kind == BYTES and field in (1, 2)]
            if KEY in strings:
                yield from (each.decode(errors="surrogateescape") for each in strings if each != KEY)
        elif inner is not None:
            yield from _locations(data, first, last, inner, depth - 1)
