"""Graphs rewritten for ONNX Runtime's CUDA provider (called a body's form): when they run in place of the portable
graph.

`fewstep build --backend onnxruntime-cuda` writes the rewritten graph, which has operations of com.microsoft
(`graph/cuda/cuda_form.py`). On a machine with the provider it also measures whether the rewritten graph is faster. The
result is stored in the user's cache folder, because it depends on the machine.
"""

import logging
import mmap
import threading
from collections.abc import Callable
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path

import msgspec
import numpy as np
from numpy.typing import NDArray

from fewstep.plans.errors import UserError, first_line, quote_path
from fewstep.runtime.backends import Arrays, LoadedGraph, find_graph
from fewstep.runtime.backends.checks import LACKS_MEMORY
from fewstep.runtime.bundle import engine_files
from fewstep.runtime.bundle.engine_key import ANY_DEVICE, EngineFacts, EngineKey, key_difference
from fewstep.runtime.bundle.manifest import EngineEntry
from fewstep.runtime.bundle.reading import Bundle
from fewstep.runtime.machine import cache
from fewstep.runtime.machine.gpu import these_gpus

LOG = logging.getLogger("fewstep")
BACKEND = "onnxruntime-cuda"
VERSION = "4"  # version of the form, which increases with each change of the pass that writes it
NORM_ATTRIBUTE = b"channels_last"  # no other operation of a bundle's graphs has this attribute
NHWC = "prefer_nhwc"  # a setting of the provider, and a flag of the keys of forms whose convolutions need it
LONG_ATTENTION = "long_attention"  # a flag of the keys of forms whose attention is faster in float32 too
FORM_ONLY = "bfloat16"  # the precision whose portable graph the provider does not open
FACTS = EngineFacts(BACKEND, VERSION, ANY_DEVICE, 0)


@dataclass(frozen=True)
class CudaForm:
    """The graph rewritten for the CUDA provider, known to belong to its body: its file and the verified hash, whether
    its convolutions are in channels-last layout, and whether most of its attentions have many keys."""

    file: Path
    sha256: str
    has_channels_last: bool
    has_long_attention: bool = False


class FormChoice(msgspec.Struct, frozen=True):
    """The result of timing the graph rewritten for the CUDA provider: its time divided by that of the portable graph,
    and whether their outputs agree (`agrees`). If they do not, the rewritten graph is never run."""

    ratio: float
    agrees: bool = True

    @property
    def is_faster(self) -> bool:
        return self.agrees and self.ratio < 1


def find_form(bundle: Bundle, name: str) -> CudaForm | None:
    """Return the graph rewritten for the CUDA provider that belongs to a body's graph, or None if the bundle has none.
    If it is damaged or was made from another graph, return None after a warning; for a body that only runs in rewritten
    form, raise UserError instead."""
    entry = next(
        (engine for engine in bundle.manifest.engines if (engine.body, engine.backend) == (name, BACKEND)), None
    )
    if entry is None:
        return None
    try:
        return _check_form(bundle, name, entry)
    except UserError as error:
        if bundle.body(name.partition("/")[0]).precision == FORM_ONLY:
            raise
        LOG.warning("%s runs as the portable graph: %s; %s", name, error.what, error.fix)
        return None


def _check_form(bundle: Bundle, name: str, entry: EngineEntry) -> CudaForm:
    """Return the graph rewritten for the CUDA provider. Raises UserError if it is damaged, or was made from another
    graph."""
    graph, hashes = find_graph(bundle, name), bundle.manifest.files
    key: EngineKey = engine_files.read_sidecar(bundle, entry).built_from
    problem = key_difference(key, hashes[graph.file], tuple(hashes[file] for file in graph.data), FACTS)
    if problem is not None:
        fix = f"fewstep build {quote_path(bundle.path)} --backend {BACKEND} --precision {name}"
        raise UserError(f"its form for {BACKEND} does not fit ({problem})", fix)
    for file in graph.data:
        bundle.file(file)  # the form reads the same weights
    return CudaForm(
        bundle.file(entry.file), hashes[entry.file], bool(key.flags.get(NHWC)), bool(key.flags.get(LONG_ATTENTION))
    )


def has_contrib_norms(file: Path) -> bool:
    """Return whether an ONNX file has a GroupNorm of com.microsoft. Its convolutions then run with channels last."""
    try:
        with file.open("rb") as stream, mmap.mmap(stream.fileno(), 0, access=mmap.ACCESS_READ) as content:
            return content.find(NORM_ATTRIBUTE) >= 0
    except (OSError, ValueError):  # no file, or an empty one, which the engine refuses
        return False


def prefers_form(form: CudaForm, precision: str, version: str, device: int) -> bool:
    """Return whether the graph rewritten for the CUDA provider is run instead of the portable graph: if it was faster
    when measured on this machine or, without a measurement, by the rule `is_preferred`.

    version: onnxruntime's version. device: the number of the GPU.
    """
    content = cache.read_intact("choices", _record(form, version, device))
    if content is None:
        return is_preferred(form, precision)
    return msgspec.json.decode(content, type=FormChoice).is_faster


def is_preferred(form: CudaForm, precision: str) -> bool:
    """Return whether the rewritten graph is run where nothing was measured. This depends on its operations and its
    type.

    From lab/measured/gpu.md, with one or two samples on an H200. In 16 bits each operation of the rewritten graph takes
    less time than those that it replaces. In float32, convolutions in channels-last layout take 1.3 times as long, and
    attention of 49 keys takes 1.7 times as long. Attention of 1024 and 4096 keys takes 0.91 and 0.94 of the time, and
    does not store the scores.
    """
    return precision != "float32" or (form.has_long_attention and not form.has_channels_last)


def remember_choice(form: CudaForm, version: str, device: int, choice: FormChoice) -> None:
    """Store which of the two graphs was faster on this machine: the one rewritten for the CUDA provider, or the
    portable one."""
    cache.store_intact("choices", _record(form, version, device), msgspec.json.encode(choice))


def _record(form: CudaForm, version: str, device: int) -> str:
    """Return the file name under which a choice is cached. It contains a hash of the graph, onnxruntime's version, the
    GPU's number, and all GPUs here."""
    gpus = [(gpu.name, gpu.driver) for gpu in these_gpus()]
    return f"form-{sha256(msgspec.json.encode((form.sha256, version, device, gpus))).hexdigest()[:32]}.json"


class FormSession:
    """A session of the graph rewritten for the CUDA provider. If a call of it fails, but the portable graph can compute
    it, the portable graph is used for this call and all later ones."""

    takes_optional = False

    def __init__(self, name: str, form: LoadedGraph, open_portable: Callable[[], LoadedGraph]) -> None:
        self._name, self._open = name, open_portable
        self._form: LoadedGraph | None = form
        self._portable: LoadedGraph | None = None
        self._lock = threading.Lock()

    @property
    def runs_form(self) -> bool:
        """Whether the next call runs the graph rewritten for the CUDA provider, and not the portable graph."""
        return self._form is not None

    def __call__(self, feeds: Arrays) -> dict[str, NDArray[np.float32]]:
        form, reason = self._form, ""
        if form is not None:
            try:
                return form(feeds)
            except Exception as error:  # onnxruntime's exceptions share no base class except Exception
                reason = error.what if isinstance(error, UserError) else first_line(error)
                if LACKS_MEMORY.search(reason):
                    raise
        with self._lock:
            if self._portable is None:
                self._portable = self._open()
        result = self._portable(feeds)  # raises an error if no graph accepts the feeds
        if reason and self._form is not None:
            LOG.warning("%s runs as the portable graph: %s", self._name, reason)
            self._form = None
        return result
