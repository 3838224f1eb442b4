"""Thin convolutions: so small a part of the work that float costs them next to no time, and all their rounding goes.

Outer layers stay float by rule, since their error is not damped. Shortcuts and narrow layers between them can matter as
much, and their int8 kernels win little: rounding takes as long as multiplying there. Which of them matter depends on
the denoiser, so samples decide. A precision map chooses single operations; here all thin ones go together, for the
price of one trial. Linear layers have no part in it: in float they won nothing.
"""

from fewstep.calibration.lowering.coverage import macs
from fewstep.calibration.lowering.quantize import lowered_ops
from fewstep.graph.graph import Graph

LARGEST = 0.005  # of the multiply-accumulates, a thin convolution's share
MOST = 0.04  # the share of all of them together


def thin_convolutions(prepared: Graph) -> tuple[str, ...]:
    """The thin ones among the operations that a lowering replaces, the smallest first: as many as fit below `MOST`.
    None where no other operation is left."""
    work, operations = macs(prepared), lowered_ops(prepared)
    total = sum(work.values())
    found, share = [], 0.0
    for name in sorted((op.name for op in operations if op.node.op == "Conv"), key=work.__getitem__):
        share += work[name] / total
        if work[name] > LARGEST * total or share > MOST:
            break
        found.append(name)
    return tuple(found) if len(found) < len(operations) else ()
