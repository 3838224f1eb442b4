"""Digests that identify a graph."""

from hashlib import sha256
from math import inf

import numpy as np

from fewstep.graph.files.weights import LARGE, release_array
from fewstep.graph.graph import Array, Graph
from fewstep.graph.widened import stored_array


def digest(graph: Graph) -> bytes:
    """Return the SHA-256 of a graph's inputs, outputs, nodes and constants."""
    return _digest(graph, inf)


def structure_digest(graph: Graph) -> bytes:
    """Return the SHA-256 of a graph's inputs, outputs, nodes and small constants, and of the types and shapes of its
    large constants."""
    return _digest(graph, LARGE)


def _digest(graph: Graph, below: float) -> bytes:
    digest = sha256(repr((graph.inputs, graph.outputs, graph.nodes)).encode())
    for name, array in sorted(graph.constants.items()):
        digest.update(f"{name} {array.dtype} {array.shape}".encode())
        if array.nbytes < below:
            digest.update(_content(array))
            release_array(array)
    return digest.digest()


def _content(array: Array) -> "memoryview | bytes":
    """Return the bytes in which an array is stored. numpy has no buffer of bfloat16, and strings of ONNX are Python
    objects."""
    if array.dtype == object:
        return repr(array.tolist()).encode()
    array = array if (stored := stored_array(array)) is None else stored
    return np.ascontiguousarray(array).reshape(-1).view(np.uint8).data
