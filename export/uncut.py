"""Whether work that x has no part in stays in every step, since what it makes could not leave the loop."""

import logging

from fewstep.graph.graph import X
from fewstep.graph.index import index
from fewstep.graph.prologue import PreparedDenoiser, can_be_row, still, work
from fewstep.graph.types import infer_types

LOG = logging.getLogger("fewstep")


def warn_of_uncut(prepared: PreparedDenoiser) -> None:
    """Warn of Conv, Gemm and MatMul of times and conditions alone that the body makes itself, with the tensor that
    could not be carried from them to the steps. What it makes by choice, since a row would outweigh what it is made of,
    is not named.
    """
    body = prepared.body
    types, outside, idx = infer_types(body), still(body, X), index(body)
    read = (name for node in body.nodes if node.output not in outside for name in node.inputs if name in outside)
    stuck = next((name for name in read if name in idx.producers and not can_be_row(name, types)), None)
    needed = frozenset[str]() if stuck is None else idx.needed([stuck])
    left = [node for node in body.nodes if node.output in needed & outside and work(node, types)]
    if not left:
        return
    value = types.values.get(stuck or "")
    shape = "of an unknown type" if value is None else f"{value.dtype} [{', '.join(map(str, value.shape))}]"
    LOG.warning(
        "%d operation%s of times and conditions alone run%s at every step: what they make, %r (%s), cannot leave the "
        "loop as it is no float32 of one row for each sample; let the network make it [batch, ...]",
        len(left),
        "s" * (len(left) > 1),
        "s" * (len(left) == 1),
        stuck,
        shape,
    )
