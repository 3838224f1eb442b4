"""Whether integer kernels compute what their numbers stand for, told tensor by tensor.

The kernels of a lowered graph run as deployed, and each of its operations once more in float32 on the very codes that
the kernel read, rounded to the code that it writes. Nothing adds up from one operation to the next, so that a tensor
which differs is where the difference is made: sums that saturate in 16 bits on a CPU without VNNI, say.
"""

import logging
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from fewstep.calibration.ranges.methods import LEVELS
from fewstep.graph.graph import Array, Graph, Node, Value
from fewstep.graph.session import open_session

LOG = logging.getLogger("fewstep")
TIES = 1e-3  # of all numbers may fall to the other side of a half: float32 and integers round sums differently
FEW = 8  # may always: a small tensor has no thousandth


@dataclass(frozen=True)
class Agreement:
    """How far the tensor that one operation makes is from its simulation, in steps of its 8-bit code; where the kernel
    writes float32, in 255ths of what the tensor spans. `off` of its `size` elements are half a step away or more."""

    tensor: str
    steps: float
    off: int
    size: int

    @property
    def is_close(self) -> bool:
        """True if nothing differs but what lies on a half."""
        return self.steps <= 1 and self.off <= max(FEW, TIES * self.size)


def agreements(lowered: Graph, feeds: Mapping[str, Array]) -> tuple[Agreement, ...]:
    """Of every QLinearConv and MatMulIntegerToFloat of a lowered graph, for one evaluation; the worst first.

    `feeds` are the graph's inputs, "group" among them if it has groups. No other operations are looked at: of a graph
    with Q/DQ pairs the answer is empty, for its kernels are the engine's.
    """
    simulated = [each for node in lowered.nodes for each in _simulation(node)]
    made = [node.output for node in lowered.nodes if _simulation(node)]
    read = {name for node in simulated for name in node.inputs if name and not lowered.is_constant(name)}
    read -= {name for node in simulated for name in node.outputs}
    if not made:
        return ()
    inner = sorted(read.union(made) - {value.name for value in lowered.inputs})
    held = {**feeds, **open_session(lowered, inner, optimize=True)(feeds)}
    alone = Graph(
        f"operations of {lowered.name}",
        tuple(Value(name, held[name].dtype, held[name].shape) for name in sorted(read)),
        tuple(Value(_simulated(name), held[name].dtype, held[name].shape) for name in made),
        tuple(simulated),
        lowered.constants,
    )
    expected = open_session(alone)(held)
    found = (_compare(name, held[name], expected[_simulated(name)]) for name in made)
    return tuple(sorted(found, key=lambda each: (each.steps, each.off), reverse=True))


def warn_of_disagreement(lowered: Graph, feeds: Mapping[str, Array], body: str) -> None:
    """A warning that names the tensor which this CPU computes furthest from what its numbers stand for, if that is more
    than rounding. The body may be right on another CPU, so it is no error."""
    worst = next(iter(agreements(lowered, feeds)), None)
    if worst is not None and not worst.is_close:
        LOG.warning(
            "%s: this CPU's integer kernels are up to %.0f steps of 8 bits wrong, most in %r (%d of %d numbers); bodies"
            " for cpu-x86-7bit are right on every x86 CPU",
            *(body, worst.steps, worst.tensor, worst.off, worst.size),
        )


def _compare(tensor: str, found: Array, expected: Array) -> Agreement:
    difference = np.abs(found.astype(np.float64) - expected)
    if found.dtype.kind == "f":
        difference /= (float(np.ptp(expected)) or 1.0) / LEVELS
    return Agreement(tensor, float(difference.max()), int((difference >= 0.5).sum()), difference.size)


def _simulation(node: Node) -> tuple[Node, ...]:
    """The operation in float32 between its codes; nothing if it is none with an integer kernel."""
    x_float, w_float, result = (f"{node.output}_{part}" for part in ("x", "w", "float"))
    final = _simulated(node.output)
    if node.op == "QLinearConv":
        x, x_scale, x_zero, w, w_scale, w_zero, *code = node.inputs
        product = Node("Conv", (x_float, w_float), (result,), node.attributes)
        behind = Node("QuantizeLinear", (result, *code), (final,))
        axis = 0
    elif node.op == "MatMulIntegerToFloat":
        x, w, x_scale, w_scale, x_zero, w_zero, *bias = node.inputs
        product = Node("MatMul", (x_float, w_float), (result,))
        behind = Node("Add", (result, *bias), (final,)) if bias else Node("Identity", (result,), (final,))
        axis = 1
    else:
        return ()
    return (
        Node("DequantizeLinear", (x, x_scale, x_zero), (x_float,)),
        Node("DequantizeLinear", (w, w_scale, w_zero), (w_float,), {"axis": axis}),
        product,
        behind,
    )


def _simulated(name: str) -> str:
    return f"simulated({name})"
