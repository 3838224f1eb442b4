"""Check on the CPU that a graph rewritten for ONNX Runtime's CUDA provider computes what the original graph
computes."""

import logging
from collections.abc import Mapping

import numpy as np

from fewstep.graph.cuda.contrib_norm_definition import expand_contrib_norms
from fewstep.graph.extents import fix_batch, fix_sizes, probe_sizes
from fewstep.graph.graph import BATCH, Array, Graph
from fewstep.graph.half_types import BFLOAT16, FLOAT16
from fewstep.graph.index import sort_topologically
from fewstep.graph.passes.float32 import has_type
from fewstep.graph.passes.rounding import make_runnable
from fewstep.graph.session import run
from fewstep.plans.errors import UserError
from fewstep.runtime.backends.openvino_agreement import random_feeds, relative_difference
from fewstep.runtime.bundle.manifest import GraphEntry
from fewstep.runtime.kinds.sizes import parse_dimension

LOG = logging.getLogger("fewstep")
ROWS = 2  # more than one, so that a form that mixes samples differs
# Allowed difference relative to the largest output. In float32, forms of ten denoisers differ by 1e-6. In float16 they
# round at other places, as engines do, and in bfloat16 with a tenth of the precision.
LARGEST, LARGEST_HALF = 1e-4, {FLOAT16: 2e-2, BFLOAT16: 0.1}


def form_problem(graph: Graph, form: Graph, entry: GraphEntry) -> str:
    """Return why a rewritten graph must not be used in place of the original one; "" if it may be.

    Each node of the rewritten graph must come after the nodes whose outputs it reads. Both graphs must have equal
    outputs, up to rounding, for one random input of ROWS samples at the default sizes. For this comparison, the
    GroupNorms of com.microsoft are replaced by their definition, and bfloat16 is simulated, because onnxruntime has no
    kernels for either on the CPU. The outputs of a graph with weights in separate files are not compared, because that
    takes much time and memory; this is logged.

    entry: the graph's inputs in its bundle.
    """
    known = (*form.constants, *(value.name for value in (*form.inputs, *form.optional)))
    try:
        if sort_topologically(form.nodes, known) != form.nodes:
            return "one of its nodes reads a tensor that a later node computes"
        if entry.data:
            LOG.info("the CUDA form of %s is not compared with the original graph: its weights are large", entry.file)
            return ""
        if unknown := _sizes_of(entry) - {BATCH, *graph.extents}:
            return f"{entry.file} does not give the range of {min(unknown)!r}"
        expected, found = (_outputs(each, entry) for each in (graph, expand_contrib_norms(form)))
    except UserError as error:
        return error.what
    if not all(np.isfinite(array).all() for array in expected.values()):
        LOG.info("the CUDA form of %s is not compared with the original graph: random inputs overflow", entry.file)
        return ""
    if any(array.shape != found[name].shape for name, array in expected.items()):
        return "its outputs have different shapes"
    difference = relative_difference(expected, found)
    largest = next((limit for half, limit in LARGEST_HALF.items() if has_type(graph, half)), LARGEST)
    return f"its outputs differ by {difference:.2g} of the largest output" if difference > largest else ""


def _sizes_of(entry: GraphEntry) -> set[str]:
    """Return the names in the shapes of a graph's inputs."""
    sizes = {size for port in entry.inputs for size in port.shape if isinstance(size, str)}
    return {name for size in sizes for name in parse_dimension(size)[1]}


def _outputs(graph: Graph, entry: GraphEntry) -> Mapping[str, Array]:
    """Return the outputs for a random input at the usual sizes."""
    sizes = probe_sizes(graph.extents)[0]
    fixed = make_runnable(fix_batch(fix_sizes(graph, sizes), ROWS))
    return run(fixed, random_feeds(entry, {BATCH: ROWS, **sizes}, seed=0))
