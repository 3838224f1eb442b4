"""The int8 that this machine computes exactly, for tests that assert numbers.

x86 CPUs without VNNI add pairs of products of uint8 and int8 in 16 bits, and saturate. So a test that runs a body asks
for EXACT_TARGET, and a test of an int8 graph opens it with `open_exact`. With VNNI these are the target cpu-x86 and the
kernels of a deployed session.
"""

import platform
from collections.abc import Iterable

import numpy as np
from numpy.typing import NDArray

from fewstep.graph.graph import Array, Graph, Node
from fewstep.graph.session import GraphSession, open_session
from fewstep.graph.weight_pairs import has_pairs
from fewstep.runtime.bundle.platforms import body_name, cpu_kind
from fewstep.runtime.machine.cpu import EXACT, this_cpu

SATURATES = cpu_kind(platform.machine()) == "x86" and EXACT.isdisjoint(this_cpu().int8_instructions)
EXACT_TARGET = "cpu-x86-no-vnni" if SATURATES else "cpu-x86"
EXACT_BODY = body_name("int8", EXACT_TARGET)

# The inputs of integer kernels: the zero point of x, the weights, and their zero point.
KERNELS = {
    "QLinearConv": (2, 3, 5),
    "MatMulIntegerToFloat": (4, 1, 5),
    "MatMulInteger": (2, 1, 3),
}


def open_exact(graph: Graph, also: Iterable[str] = (), optimize: bool = False) -> GraphSession:
    """Open a session as `open_session` does, but with exact sums: without VNNI, kernels read unsigned weights, and Q/DQ
    pairs are computed in float."""
    return open_session(unsigned_weights(graph) if SATURATES else graph, also, optimize, fuse_qdq=not SATURATES)


def unsigned_weights(graph: Graph) -> Graph:
    """Return the graph whose kernels of uint8 activations read uint8 weights with a zero point of 128: the same
    numbers. onnxruntime adds products of two uint8 in 32 bits on every CPU, as it does those of two int8."""
    constants: dict[str, Array] = {}

    def replace_weights(node: Node) -> Node:
        x_zero, weight, zero = KERNELS.get(node.op, (0, 0, 0))
        values = graph.constants.get(node.inputs[weight]) if node.op in KERNELS else None
        if values is None or values.dtype != np.int8 or graph.constants[node.inputs[x_zero]].dtype != np.uint8:
            return node
        inputs = [*node.inputs, *[""] * (zero + 1 - len(node.inputs))]
        zeros = graph.constants.get(inputs[zero], np.zeros((), np.int8))
        for index, array in ((weight, values), (zero, zeros)):
            inputs[index] = f"unsigned({node.inputs[weight]}, {index})"
            constants[inputs[index]] = (array.astype(np.int16) + 128).astype(np.uint8)
        return Node(node.op, tuple(inputs), node.outputs, node.attributes, node.name, node.domain)

    return graph.with_nodes([replace_weights(node) for node in graph.nodes], constants)


def largest_pair_sum(values: NDArray[np.int8], axis: int) -> int:
    """Return the largest magnitude of a pair's sum in a weight whose output channels are along `axis`. With an odd
    number of channels, any two weights of an output may be a pair."""
    rows = np.moveaxis(values, axis, 0).astype(np.int16)
    if not has_pairs(rows.shape):
        return int(2 * np.abs(rows).max(initial=0))
    pairs = rows.reshape(len(rows), -1, 2, *rows.shape[2:])
    return int(np.abs(pairs.sum(axis=2)).max(initial=0))
