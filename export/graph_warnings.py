"""Warnings of a prepared graph: operations that no engine takes, and work that stays in every step."""

import logging

from fewstep.graph.engine_operations import OLDEST, find_unparsed, version_text
from fewstep.graph.mac_count import estimate_macs
from fewstep.graph.prologue import PreparedDenoiser, can_be_row, x_independent_tensors
from fewstep.graph.types import infer_types

LOG = logging.getLogger("fewstep")


def warn_of_operations(prepared: PreparedDenoiser) -> None:
    """Warn of each operation that no engine can be built of, with the module that it stands in.

    The bundle still runs on a CPU, so this is nothing to refuse it for.
    """
    for graph in (prepared.conditioner, prepared.prologue, prepared.body):
        for each in find_unparsed(graph) if graph is not None else ():
            LOG.warning(
                "%s: no engine for TensorRT %s can be built of it; write that operation with others, or run the bundle "
                "on ONNX Runtime or OpenVINO",
                each,
                version_text(OLDEST),
            )


def warn_of_repeated_work(prepared: PreparedDenoiser) -> None:
    """Warn of Conv, Gemm and MatMul of times and conditions alone that the body makes itself, with the tensor that
    could not be carried from them to the steps. What it makes by choice, since a row would outweigh what it is made of,
    is not named.
    """
    body = prepared.body
    types, outside = infer_types(body), x_independent_tensors(body)
    working = [node for node in body.nodes if node.output in outside and estimate_macs(node, types)]
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
