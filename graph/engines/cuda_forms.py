"""Rewrite a body's graph for ONNX Runtime's CUDA provider, and store it with a key that identifies the original
graph."""

import logging
from collections.abc import Mapping
from pathlib import Path

import msgspec

from fewstep.graph.cuda.cuda_form import cuda_form, form_size, has_long_attention
from fewstep.graph.cuda.cuda_form_check import form_problem
from fewstep.graph.engines.build_engine import add_sidecar
from fewstep.graph.files import io
from fewstep.graph.files.commit import Writer
from fewstep.graph.half_types import BFLOAT16
from fewstep.graph.passes.float32 import has_type
from fewstep.plans.errors import UserError
from fewstep.runtime.backends.onnxruntime_cuda_form import BACKEND, LONG_ATTENTION, NHWC, VERSION
from fewstep.runtime.bundle.engine_key import ANY_DEVICE, SCHEMA, EngineKey, Sidecar
from fewstep.runtime.bundle.manifest import EngineEntry, GraphEntry

LOG = logging.getLogger("fewstep")
ANY_BATCH = (1, 1, 1)  # a form takes every batch


def form_keys(graph: GraphEntry, hashes: Mapping[str, str]) -> tuple[EngineKey, ...]:
    """Return the keys that a graph's form may have: without a flag, with the flag for channels-last convolutions, and
    with the flag for long attention.

    hashes: sha256 of the bundle's files.
    """
    weights = tuple(hashes[file] for file in graph.data)
    first = EngineKey(hashes[graph.file], weights, ANY_BATCH, {}, BACKEND, VERSION, ANY_DEVICE)
    return first, *(msgspec.structs.replace(first, flags={flag: True}) for flag in (NHWC, LONG_ATTENTION))


def write_form(
    writer: Writer, name: str, graph: GraphEntry, keys: tuple[EngineKey, ...], bundle: Path
) -> EngineEntry | None:
    """Rewrite a body's graph for the CUDA provider and add the result to the bundle. Return its entry. Return None, and
    log the reason, if it would not have fewer kernels than the original graph, or if its results differ
    (`form_problem`).

    keys: from `form_keys`.

    Large weights stay in the files of the original graph, which the rewritten graph reads too. A bfloat16 body can only
    run in rewritten form. If that is wrong, a UserError with the reason is therefore raised.
    """
    portable = io.load(bundle / graph.file, root=bundle)
    form = cuda_form(portable)
    before, after = form_size(portable), form_size(form)
    is_needed = has_type(portable, BFLOAT16)
    if after.kernels >= before.kernels and not is_needed:
        text = "%s is not rewritten for %s: the result would have %d kernels, and the graph has %d"
        LOG.info(text, name, BACKEND, after.kernels, before.kernels)
        return None
    problem = form_problem(portable, form, graph)
    if problem:
        if is_needed:
            raise UserError(f"{name} cannot be rewritten for {BACKEND}: {problem}", "choose float16 or float32")
        LOG.warning("%s cannot be rewritten for %s: %s", name, BACKEND, problem)
        return None
    LOG.info("the form of %s for %s has %d kernels a step instead of %d", name, BACKEND, after.kernels, before.kernels)
    file, data = io.store(writer, form, f"{name.replace('/', '-')}-{BACKEND}", external_above=0 if graph.data else None)
    if not {*data} <= {*graph.data} and not is_needed:
        LOG.info("%s gets no form for %s: it would need other weight files", name, BACKEND)
        return None
    key = keys[1 if after.norms else 2 if has_long_attention(portable, form) else 0]
    return add_sidecar(writer, name, file, Sidecar(SCHEMA, key.digest, key, writer.known_files[file], {}))
