"""Whether work that x has no part in stays in every step, since nothing of a network could leave the loop."""

import logging

from fewstep.graph.graph import X
from fewstep.graph.index import index
from fewstep.graph.prologue import PreparedDenoiser, can_be_row, still, work
from fewstep.graph.types import infer_types

LOG = logging.getLogger("fewstep")


def warn_of_uncut(prepared: PreparedDenoiser) -> None:
    """Warn of Conv, Gemm and MatMul of times and conditions alone in a network without a prologue, with the tensor that
    could not be carried from it to the steps.

    A network that makes such tensors itself by choice, since they outweigh what they are made of, has none to name.
    """
    body = prepared.body
    if prepared.prologue is not None:
        return
    types, outside = infer_types(body), still(body, X)
    left = [node for node in body.nodes if node.output in outside and work(node, types)]
    idx = index(body)
    read = (name for node in body.nodes if node.output not in outside for name in node.inputs if name in outside)
    stuck = next((name for name in read if name in idx.producers and not can_be_row(name, types)), None)
    if not left or stuck is None:
        return
    value = types.values.get(stuck)
    shape = "of an unknown type" if value is None else f"{value.dtype} [{', '.join(map(str, value.shape))}]"
    LOG.warning(
        "%d operation%s of times and conditions alone run%s at every step, as none of it can leave the loop: tensor "
        "%r (%s) is no float32 of one row for each sample; let the network make it [batch, ...]",
        len(left),
        "s" * (len(left) > 1),
        "s" * (len(left) == 1),
        stuck,
        shape,
    )
