"""Coverage operation by operation: what each does, how much of the work it is, and why it is not int8."""

from collections.abc import Collection

from fewstep.calibration.lowering.coverage import macs
from fewstep.calibration.lowering.selection import LEAST_CHANNELS, selected_ops, weighted_op
from fewstep.calibration.results import Covered, Operation
from fewstep.graph.graph import Graph
from fewstep.runtime.manifest import Coverage

ACTIVATIONS = "both factors are activations"
FEW_CHANNELS = f"fewer than {LEAST_CHANNELS} channels on one side"
OUTER = "first or last layer: its error reaches the sample undamped"
LEFT = "selected, but this target has no int8 form of it"


def operations(prepared: Graph, body: str, coverage: Coverage) -> Covered:
    """The multiplying operations of the prepared graph in order, each with its fate in a lowered body."""
    work, int8 = macs(prepared), set(coverage.int8_ops)
    selected = {op.name for op in selected_ops(prepared)}
    made = []
    for node in prepared.nodes:
        if node.output not in work:
            continue
        op = weighted_op(node, prepared)
        channels = (op.channels_in, op.channels_out) if op else None
        is_int8 = node.output in int8
        made.append(
            Operation(
                name=node.name or node.output,
                kind=node.op,
                channels=channels,
                macs=work[node.output],
                precision="int8" if is_int8 else "float",
                reason="" if is_int8 else _reason(node.output, channels, selected),
            )
        )
    return Covered(body, coverage, tuple(made))


def _reason(name: str, channels: tuple[int, int] | None, selected: Collection[str]) -> str:
    """Why an operation is not int8, by the rule of `selected_ops`."""
    if channels is None:
        return ACTIVATIONS
    if name in selected:
        return LEFT
    return FEW_CHANNELS if min(channels) < LEAST_CHANNELS else OUTER
