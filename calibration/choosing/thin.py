"""Thin convolutions: so small a part of the work that float costs them next to no time, and all their rounding goes.

Outer layers stay float by rule, since their error is not damped. Narrow shortcuts between them can matter as much, and
their int8 kernels win little: each value that is made is rounded, and few products are summed for it. Which of them
matter depends on the denoiser, so samples decide. A precision map chooses single operations; here all thin ones go
together, for the price of one trial. Linear layers have no part in it: in float they won nothing.
"""

from fewstep.graph.graph import Graph
from fewstep.graph.selection import considered_ops
from fewstep.lowering.coverage import macs
from fewstep.lowering.quantize import lowered_ops

LARGEST = 0.005  # of the multiply-accumulates, a thin convolution's share
SUMMED = 64  # products for a value, at most: with 96 and more, float took 5 % longer for a whole body (measured)
LEAST = 0.95  # of the multiply-accumulates, the share that stays int8


def thin_convolutions(prepared: Graph) -> tuple[str, ...]:
    """The thin ones among the operations that a lowering replaces, the smallest first: as many as leave `LEAST` of the
    multiply-accumulates in int8. Products of two activations, which have no int8 form, count only where that can be."""
    work, operations = macs(prepared), lowered_ops(prepared)
    total, in_int8 = sum(work.values()), sum(work[op.name] for op in operations)
    weighted = sum(work[op.name] for op, _ in considered_ops(prepared))
    least = LEAST * (total if in_int8 >= LEAST * total else weighted)
    found = []
    narrow = (op.name for op in operations if op.node.op == "Conv" and prepared.constants[op.weight][0].size <= SUMMED)
    for name in sorted(narrow, key=work.__getitem__):
        in_int8 -= work[name]
        if work[name] > LARGEST * total or in_int8 < least:
            break
        found.append(name)
    return tuple(found)
