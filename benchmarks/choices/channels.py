"""Where the channels of an operation lie in what it reads and in what it makes."""

from fewstep.calibration.lowering.selection import WeightedOp


def channel_axis(op: WeightedOp) -> int:
    """Of its input and of its output."""
    return 1 if op.node.op == "Conv" else -1
