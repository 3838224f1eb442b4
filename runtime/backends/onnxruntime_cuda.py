"""ONNX Runtime on NVIDIA GPUs: its CUDA provider, in float32, float16 or bfloat16.

    fewstep.runtime.load("bundle", "float16", backend=OnnxRuntimeCuda())

The provider has no 8-bit convolutions, so int8 runs on TensorRT. TF32 is off. `fewstep build` rewrites a body's graph
for this provider; the rewritten graph is run where it is faster (`onnxruntime_cuda_form.py`).
"""

import contextlib
import io
import logging
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from types import MappingProxyType
from typing import Any, ClassVar

from fewstep.plans.errors import UserError, first_line, quote_path
from fewstep.runtime.backends import RUN_ONCE, LoadedGraph, find_graph
from fewstep.runtime.backends.checks import import_package, path_text
from fewstep.runtime.backends.device_lock import device_lock
from fewstep.runtime.backends.onnxruntime import FATAL_ONLY, Session
from fewstep.runtime.backends.onnxruntime_cuda_form import (
    BACKEND,
    FORM_ONLY,
    NHWC,
    CudaForm,
    FormSession,
    find_form,
    has_contrib_norms,
    prefers_form,
)
from fewstep.runtime.backends.onnxruntime_cuda_graph import CudaGraphSession, LockedSession
from fewstep.runtime.backends.port_checks import check_ports
from fewstep.runtime.bundle.reading import Bundle

LOG = logging.getLogger("fewstep")
PROVIDER, DEVICE = "CUDAExecutionProvider", "cuda"
BODIES: Mapping[str, tuple[str, ...]] = MappingProxyType(
    {precision: (precision,) for precision in ("float32", "float16", "bfloat16")}
)


@dataclass(frozen=True)
class OnnxRuntimeCuda:
    """ONNX Runtime's CUDA provider on the GPU number `device`.

    Steps are launched as CUDA graphs, unless the CPU computes a part of the body.

    form: whether to run the graph that `fewstep build` rewrote for this provider, instead of the portable graph. None
        runs it if `build` measured on this machine that it is faster; if nothing was measured, only in float16. The
        portable graph also runs if there is no rewritten graph, or if this version of the provider cannot run it.
        bfloat16 always runs as the rewritten graph.
    """

    name: ClassVar[str] = BACKEND
    device: int = 0
    form: bool | None = None

    @property
    def bodies(self) -> Mapping[str, tuple[str, ...]]:
        return BODIES

    def load(self, bundle: Bundle, name: str) -> LoadedGraph:
        onnxruntime = self._import()
        if name not in RUN_ONCE and bundle.body(name.partition("/")[0]).precision == FORM_ONLY:
            return self._load_plainly(onnxruntime, bundle, name, self._find_form(bundle, name))
        form = None if name in RUN_ONCE else self._select_form(bundle, name, onnxruntime.__version__)
        if form is not None:
            try:
                recorded = self._load_form(onnxruntime, bundle, name, form)
            except UserError as error:  # an older provider may lack an operation
                LOG.warning("%s runs as the portable graph: %s", name, error.what)
            else:
                return FormSession(name, recorded, lambda: self._load_plainly(onnxruntime, bundle, name))
        return self._load_plainly(onnxruntime, bundle, name)

    def load_form(self, bundle: Bundle, name: str) -> LoadedGraph:
        """Load the graph that was rewritten for the CUDA provider from this body. Its calls never fall back to the
        portable graph. Raises UserError if there is no such graph, or if onnxruntime rejects it."""
        form = self._find_form(bundle, name)
        return self._load_form(self._import(), bundle, name, form)

    def _find_form(self, bundle: Bundle, name: str) -> CudaForm:
        """Return the graph that was rewritten for the CUDA provider from this body. Raises UserError if there is
        none."""
        form = find_form(bundle, name)
        if form is None:
            fix = f"fewstep build {quote_path(bundle.path)} --backend {BACKEND} --precision {name}"
            raise UserError(f"{name} has no form for {BACKEND}", fix)
        return form

    def _load_form(self, onnxruntime: Any, bundle: Bundle, name: str, form: CudaForm) -> LoadedGraph:
        return self._record(onnxruntime, self._opener(onnxruntime, bundle, name, form), has_plain=False)

    def _import(self) -> Any:
        """Import onnxruntime. Raises UserError if it has no CUDA provider."""
        onnxruntime = import_package("onnxruntime", "no inference engine: onnxruntime", "pip install 'fewstep[gpu]'")
        if PROVIDER not in onnxruntime.get_available_providers():
            raise UserError(
                f"onnxruntime {onnxruntime.__version__} was built without {PROVIDER}",
                "pip uninstall onnxruntime, then pip install 'fewstep[gpu]'; on a Jetson install NVIDIA's build of it",
            )
        _find_libraries(onnxruntime)
        return onnxruntime

    def load_run(self, file: Path) -> tuple[LoadedGraph, Mapping[str, str]]:
        """Load a file written by `fewstep bake --unroll`, whose calls are recorded as CUDA graphs. Return its graph and
        the metadata in it."""
        onnxruntime, layout = self._import(), {NHWC: "1"} if has_contrib_norms(file) else {}
        metadata: list[Mapping[str, str]] = []

        def open_file(cuda_graph: bool) -> Session:
            settings = {**provider_settings(self.device, cuda_graph), **layout}
            session = open_session(onnxruntime, file, (PROVIDER, settings))
            onnxruntime.set_default_logger_severity(FATAL_ONLY)
            metadata.append(session.get_modelmeta().custom_metadata_map)
            outputs = tuple(output.name for output in session.get_outputs())
            return Session(file.name, session, outputs, takes_optional=False)

        try:
            return self._record(onnxruntime, open_file, has_plain=False), metadata[0]
        except UserError as error:  # a Loop, or an operation that the CPU computes
            what = f"{file} cannot be one CUDA graph: {error.what}"
            raise UserError(what, "bake it with --unroll --batch N") from error

    def _select_form(self, bundle: Bundle, name: str, version: str) -> CudaForm | None:
        """Return the graph that was rewritten for the CUDA provider from this body, or None if the portable graph is to
        run: there is no rewritten graph, it is disabled, or it is not faster on this device."""
        form = None if self.form is False else find_form(bundle, name)
        precision = bundle.body(name.partition("/")[0]).precision
        is_preferred = form is not None and (self.form or prefers_form(form, precision, version, self.device))
        return form if is_preferred else None

    def _load_plainly(self, onnxruntime: Any, bundle: Bundle, name: str, form: CudaForm | None = None) -> LoadedGraph:
        """Load a graph as it is, or, for a body that only runs in rewritten form, the rewritten graph. If its calls
        cannot be recorded, they run without a CUDA graph."""
        opener, lock = self._opener(onnxruntime, bundle, name, form), device_lock(DEVICE, self.device)
        if name not in RUN_ONCE:  # these graphs run once per sample
            try:
                return self._record(onnxruntime, opener)
            except UserError as error:  # for example if the provider leaves operations to the CPU
                LOG.info("%s runs without a CUDA graph: %s", name, error.what)
        with lock.share():
            return LockedSession(opener(False), lock)

    def _record(self, onnxruntime: Any, opener: Callable[[bool], Session], has_plain: bool = True) -> CudaGraphSession:
        """Open a session that records its calls as CUDA graphs. Raises UserError if the provider cannot record them.

        has_plain: whether calls that cannot be recorded are run in a session without recording. Otherwise they raise
            UserError: a rewritten graph or a whole run would be slower without recording than what it replaces.
        """
        with device_lock(DEVICE, self.device).share():
            plain = partial(opener, False) if has_plain else None
            return CudaGraphSession(onnxruntime, opener(True), plain, (DEVICE, self.device))

    def _opener(
        self, onnxruntime: Any, bundle: Bundle, name: str, form: CudaForm | None = None
    ) -> Callable[[bool], Session]:
        """Return a function that opens a session of a graph, or of the graph rewritten from it. Its argument is whether
        calls are recorded as a CUDA graph."""
        graph = find_graph(bundle, name)
        file = bundle.graph(graph) if form is None else form.file
        layout = {NHWC: "1"} if form is not None and form.has_channels_last else {}

        def open_graph(cuda_graph: bool) -> Session:
            settings = {**provider_settings(self.device, cuda_graph), **layout}
            session = open_session(onnxruntime, file, (PROVIDER, settings))
            onnxruntime.set_default_logger_severity(FATAL_ONLY)  # the default logger reports cuDNN's trials as errors
            check_ports(bundle, graph, session.get_inputs, session.get_outputs)
            outputs = tuple(output.name for output in session.get_outputs())
            return Session(file.name, session, outputs, takes_optional=False)  # LoRA slots are not tested on GPUs

        return open_graph


def provider_settings(device: int, cuda_graph: bool = False) -> dict[str, str]:
    """Return settings of the CUDA provider, without TF32, which is on by default. `cuda_graph` records runs."""
    return {"device_id": str(device), "use_tf32": "0", "enable_cuda_graph": str(int(cuda_graph))}


def open_session(onnxruntime: Any, graph: Path, provider: tuple[str, Mapping[str, Any]]) -> Any:
    """Open a session on a provider. Raises UserError if it does not start; ONNX Runtime would silently fall back."""
    options = onnxruntime.SessionOptions()
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_ENABLE_ALL
    options.log_severity_level = FATAL_ONLY
    options.intra_op_num_threads = 1  # the CPU only waits
    name, settings = provider
    what = f"onnxruntime {onnxruntime.__version__}"
    path = path_text(graph)
    try:
        session = onnxruntime.InferenceSession(path, options, providers=[(name, dict(settings))], enable_fallback=0)
    except Exception as error:  # onnxruntime's exceptions share no base class except Exception
        raise UserError(
            f"{what} cannot load {graph.name} on {name}: {first_line(error)}", "see `fewstep doctor`"
        ) from error
    if name not in session.get_providers():
        raise UserError(
            f"{what} cannot start {name}",
            "install the CUDA and cuDNN it was built for: pip install 'onnxruntime-gpu[cuda,cudnn]'",
        )
    return session


def _find_libraries(onnxruntime: Any) -> None:
    """Preload CUDA and cuDNN from pip's folders. onnxruntime's messages go to the log."""
    if hasattr(onnxruntime, "preload_dlls"):
        printed = io.StringIO()
        with contextlib.redirect_stdout(printed):
            onnxruntime.preload_dlls()
        LOG.debug("onnxruntime, looking for CUDA: %s", printed.getvalue().strip())
