"""Thin convolutions stay in float by rule, like first and last layers: their rounding goes for next to no time.

Narrow shortcuts can matter as much as outer layers. Their int8 kernels win little: each value is rounded, and few
products are summed for it. Linear layers have no part in it: in float they won nothing. The measured worth is in
docs/measured/trials.md.
"""

from collections.abc import Sequence

from fewstep.calibration.lowering.coverage import macs
from fewstep.graph.graph import Graph
from fewstep.graph.selection import WeightedOp, considered_ops

LARGEST = 0.005  # of the multiply-accumulates, a thin convolution's share
SUMMED = 64  # products for a value, at most: with 96 and more, float took 5 % longer for a whole body (measured)
LEAST = 0.95  # of the multiply-accumulates, the share that stays int8


def thin_convolutions(prepared: Graph, ops: Sequence[WeightedOp]) -> tuple[str, ...]:
    """Names of the thin convolutions among operations, the smallest first: as many as leave `LEAST` of the
    multiply-accumulates in int8. Products of two activations have no int8 form, and count only where that can be."""
    narrow = [op.name for op in ops if op.node.op == "Conv" and prepared.constants[op.weight][0].size <= SUMMED]
    if not narrow:
        return ()
    work = macs(prepared)
    total, in_int8 = sum(work.values()), sum(work[op.name] for op in ops)
    weighted = sum(work[op.name] for op, _ in considered_ops(prepared))
    least = LEAST * (total if in_int8 >= LEAST * total else weighted)
    thin = []
    for name in sorted(narrow, key=work.__getitem__):
        in_int8 -= work[name]
        if work[name] > LARGEST * total or in_int8 < least:
            break
        thin.append(name)
    return tuple(thin)
