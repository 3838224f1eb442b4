"""Work that x has no part in, and that stays in every step since what it makes could not leave the loop."""

import logging

from fewstep.graph.prologue import PreparedDenoiser, can_be_row, still
from fewstep.graph.types import infer_types
from fewstep.graph.work import work

LOG = logging.getLogger("fewstep")


def warn_of_uncut(prepared: PreparedDenoiser) -> None:
    """Warn of Conv, Gemm and MatMul of times and conditions alone that the body makes itself, with the tensor that
    could not be carried from them to the steps. What it makes by choice, since a row would outweigh what it is made of,
    is not named.
    """
    body = prepared.body
    types, outside = infer_types(body), still(body)
    working = [node for node in body.nodes if node.output in outside and work(node, types)]
    left = [node for node in working if not can_be_row(node.output, types)]
    if not left:
        return
    stuck = left[0].output
    value = types.values.get(stuck)
    shape = "of an unknown type" if value is None else f"{value.dtype} [{', '.join(map(str, value.shape))}]"
    LOG.warning(
        "%d operation%s of times and conditions alone run%s at every step: what they make, as %r (%s), is no float32 "
        "with a row for each sample; let the network make it float32 [batch, ...]",
        len(left),
        "s" * (len(left) > 1),
        "s" * (len(left) == 1),
        stuck,
        shape,
    )
