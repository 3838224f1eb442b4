"""Find the files that an ONNX file refers to, from its bytes, without loading it.

onnxruntime before 1.23 opens any file that a graph names for its weights, wherever it is. So bundles are checked first.
Only protobuf messages that can contain a tensor are entered. Files that would take an engine minutes and gigabytes to
open are refused: those with functions, which can describe 2^40 nodes in a few kilobytes, and those with very many
weights.
"""

import mmap
import re
from collections.abc import Iterator
from itertools import islice
from pathlib import Path

from fewstep.runtime.protobuf import BYTES, spans

KEY = b"location"  # the key of the entry that names a file
FUNCTION = 25  # the number of the field of a model that defines a function; fewstep writes none
MOST_REFERENCES = 20_000  # weights in other files
DEPTH = 100  # depth of nested messages; protobuf itself reads no deeper
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
    """Return the locations of external weights as an ONNX file names them.

    Raises ValueError if it is not protobuf, defines functions, or names more than MOST_REFERENCES locations.
    """
    with path.open("rb") as file:
        if path.stat().st_size == 0:  # an empty file cannot be mapped
            raise ValueError("it is empty")
        with mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as data:
            if any(number == FUNCTION for number, _, _, _ in spans(data, 0, len(data))):
                raise ValueError("it defines functions")
            if next(islice(re.finditer(KEY, data), MOST_REFERENCES, None), None) is not None:
                raise ValueError(f"it has more than {MOST_REFERENCES:,} weights in other files")
            if data.find(KEY) < 0:  # a fast path for graphs without a weight file, which most are
                return frozenset()
            return frozenset(_locations(data, 0, len(data), "model", DEPTH))


def _locations(data: mmap.mmap, start: int, end: int, message: str, depth: int) -> Iterator[str]:
    if depth == 0:
        raise ValueError("it is nested too deeply")
    for number, kind, first, last in spans(data, start, end):
        inner = ENTERED[message].get(number) if kind == BYTES else None
        if inner == "entry":
            strings = [data[a:b] for field, kind, a, b in spans(data, first, last) if kind == BYTES and field in (1, 2)]
            if KEY in strings:
                yield from (text.decode(errors="surrogateescape") for text in strings if text != KEY)
        elif inner is not None:
            yield from _locations(data, first, last, inner, depth - 1)
