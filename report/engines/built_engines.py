"""Checks of engines that were built on this machine: their outputs compared with onnxruntime's, and the times of forms
(graphs rewritten for ONNX Runtime's CUDA provider)."""

from collections.abc import Iterator
from importlib.util import find_spec

from fewstep.graph.engines.batches import parse_batch
from fewstep.graph.engines.build import Build
from fewstep.plans.errors import UserError
from fewstep.report.choosing.form_measurement import USUAL_ROWS, FormMeasurement
from fewstep.report.engines.differences import EngineComparison, NotCompared
from fewstep.runtime.backends.registry import create_backend
from fewstep.runtime.backends.tensorrt import TensorRt
from fewstep.runtime.bundle.engine_key import AMPERE_ON
from fewstep.runtime.bundle.networks import networks
from fewstep.runtime.bundle.reading import Bundle
from fewstep.runtime.progress import Progress


def measure_built_forms(
    bundle: Bundle, precision: str, opt_batch: str | None, made: Build
) -> Iterator[FormMeasurement]:
    """Time the graphs that `build` rewrote for the CUDA provider on this machine's GPU, if ONNX Runtime has that
    provider here. Yields the results of all networks."""
    from fewstep.report.choosing.cuda_forms import measure_forms

    for name in networks(made.manifest):
        part = bundle.select_network(name)
        graph, manifest = part.body(precision).graph, part.manifest
        rows = USUAL_ROWS if opt_batch is None else parse_batch(opt_batch, graph, manifest.sizes, manifest.x_shape)
        yield from measure_forms(bundle, name, precision, rows)


def compare_built_engines(
    bundle: Bundle, backend: str, made: Build, progress: Progress
) -> Iterator[EngineComparison | NotCompared]:
    """Compare the engines for this machine's GPU, if it has one, with onnxruntime."""
    engine = create_backend(backend)
    try:
        here = engine.engine_facts().device if isinstance(engine, TensorRt) else None
    except UserError:  # the engines are for GPUs of other machines
        return
    graphs = {engine.body for engine in (*made.built, *made.kept) if engine.device in (here, AMPERE_ON)}
    if here is None or not graphs:
        return
    if find_spec("onnxruntime") is None:
        yield NotCompared(backend, "onnxruntime is not installed (pip install 'fewstep[cpu]')")
        return
    from fewstep.report.engines.compare_engines import compare_engines

    for name in networks(made.manifest):
        yield from compare_engines(bundle.select_network(name), progress, (backend,), graphs)
