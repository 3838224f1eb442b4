"""Compare weights in 8 or 4 bits, as they were written, with those from which they were rounded: by the definitions of
the operations that read them, a block of outputs at a time. Then compare what the graph computes.
"""

import logging
from collections.abc import Iterator, Mapping
from math import inf, log10

import numpy as np

from fewstep.graph.files.weights import are_equal, release_array
from fewstep.graph.graph import Array, Graph, Node
from fewstep.graph.index import index
from fewstep.graph.passes.stored_weights import select_stored_ops
from fewstep.graph.selection import WeightedOp
from fewstep.plans.errors import UserError

LOG = logging.getLogger("fewstep")
AT_ONCE = 1 << 22  # weights that are compared at once
LEAST_RATIO = 3.0  # dB of signal over error; a graph that computes something else has 0 or less
TINY = 1e-3  # of a code: the error of the scale in float32


def check_stored_weights(written: Graph, source: Graph) -> None:
    """Raise UserError naming a weight of a written graph that is neither that of the `source`, nor its numbers rounded
    to the nearest ones that its scales allow."""
    producers = index(written).producers
    compared = set[str]()
    for op in select_stored_ops(source):
        if op.code in compared:
            continue
        compared.add(op.code)
        weight = source.constants[op.weight]
        if not all(_are_nearest(*block) for block in _read_blocks(op, weight, written, producers)):
            raise _other_weight(op.weight)
        release_array(weight)
    for name, array in source.constants.items():
        if (table := written.constants.get(f"{name}/int8")) is not None:  # of embeddings
            scales, size = written.constants[f"{name}/scales"], max(1, AT_ONCE // table.shape[1])
            parts = (slice(start, start + size) for start in range(0, len(table), size))
            if not all(_are_nearest(table[part], array[part] / scales[part], (-127, 127)) for part in parts):
                raise _other_weight(name)
        elif name in written.constants and not _are_equal(written.constants[name], array):
            raise _other_weight(name)


def measure_ratio(exact: Array, rounded: Array, what: str) -> float:
    """Return the ratio of the variance of a graph's outputs to the mean squared error of those with rounded weights, in
    dB. Raises UserError if the outputs have little in common."""
    error = np.square(rounded.astype(np.float64) - exact).mean()
    ratio = 10 * log10(exact.astype(np.float64).var() / error) if error and exact.var() else inf
    if error and not ratio >= LEAST_RATIO:
        raise UserError(
            f"the output of {what} with rounded weights is {ratio:.1f} dB above its error, and must be {LEAST_RATIO:g}",
            "export with more bits, or in float32, from which fewstep calibrate chooses what stays float",
        )
    return ratio


def _are_equal(one: Array, other: Array) -> bool:
    return are_equal(one, other) if one.ndim and one.shape == other.shape else np.array_equal(one, other)


def _other_weight(name: str) -> UserError:
    return UserError(
        f"weight {name!r} as written is not that of the source, rounded to the nearest numbers",
        "export again; if it fails again, report it: this is a bug in fewstep",
    )


def _are_nearest(codes: Array, exact: Array, limits: tuple[int, int]) -> bool:
    """Return whether integers are the nearest to real numbers, within limits."""
    low, high = limits
    return bool((np.abs(codes - np.clip(exact, low, high)) <= 0.5 + TINY).all())


def _read_blocks(
    op: WeightedOp, weight: Array, written: Graph, producers: Mapping[str, Node]
) -> Iterator[tuple[Array, Array, tuple[int, int]]]:
    """Yield the codes of a written weight, the real numbers of which they are the nearest, and their limits, in blocks
    of outputs. Raises UserError if the operation has another weight."""
    rows = np.moveaxis(weight, op.axis, 0).reshape(weight.shape[op.axis], -1)
    size = max(1, AT_ONCE // rows.shape[1])
    parts = [slice(start, start + size) for start in range(0, len(rows), size)]
    node = producers.get(f"{op.name}/product", producers.get(op.name))
    if node is None or node.inputs[0] != op.x:
        raise _other_weight(op.weight)
    if node.op == "MatMulNBits":
        cast = producers[node.inputs[2]]
        packed, scales, zeros = (written.constants[name] for name in (node.inputs[1], cast.inputs[0], node.inputs[3]))
        group, inputs = node.attributes["block_size"], rows.shape[1]
        codes = _unpack(packed.reshape(len(packed), -1))
        scales = scales.reshape(len(rows), -1).astype(np.float32)
        zeros = _unpack(zeros.reshape(len(rows), -1))[:, : scales.shape[1]]
        for part in parts:
            scale, zero = (table[part].repeat(group, axis=1)[:, :inputs] for table in (scales, zeros))
            yield codes[part, :inputs], rows[part] / scale + zero, (0, 15)
        return
    dequantize = producers.get(node.inputs[1])
    if dequantize is None or dequantize.op != "DequantizeLinear":
        raise _other_weight(op.weight)
    integers, scales = (written.constants[name] for name in dequantize.inputs[:2])
    integers = np.moveaxis(integers, dequantize.attributes["axis"], 0).reshape(rows.shape)
    for part in parts:
        yield integers[part], rows[part] / scales[part, None], (-127, 127)


def _unpack(packed: Array) -> Array:
    """Return the two numbers of each byte, that of the low half first."""
    return np.stack([packed & 15, packed >> 4], axis=-1).reshape(len(packed), -1)
