"""Warn about a prepared graph: operations that no engine supports, and work repeated in every step."""

import logging

from fewstep.graph.cuts.prologue import PreparedDenoiser, can_be_row, x_independent_tensors
from fewstep.graph.engine_operations import OLDEST, find_unparsed, version_text
from fewstep.graph.mac_count import estimate_macs
from fewstep.graph.types import infer_types

LOG = logging.getLogger("fewstep")


def warn_of_operations(prepared: PreparedDenoiser) -> None:
    """Warn of each operation that prevents building an engine, with the module that contains it.

    The bundle still runs on a CPU, so export does not refuse it.
    """
    for graph in (prepared.conditioner, prepared.prologue, prepared.body):
        for function in find_unparsed(graph) if graph is not None else ():
            LOG.warning(
                "%s, so no engine for TensorRT %s can be built; replace that operation by others, or run the bundle "
                "on ONNX Runtime",
                function,
                version_text(OLDEST),
            )


def warn_of_repeated_work(prepared: PreparedDenoiser) -> None:
    """Warn of Conv, Gemm and MatMul nodes that depend only on times and conditions, but cannot be computed before the
    first step, since a result is not float32 with one part per sample. The warning names the first such result. There
    is no warning for nodes that stay in the body because their results are larger than their inputs."""
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
        "operations that depend only on times and conditions run at every step (%d of them): results such as %r (%s) "
        "are not float32 with one part per sample; let the network compute them as float32 [batch, ...]",
        len(left),
        stuck,
        shape,
    )
