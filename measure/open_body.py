"""Load a body of a bundle to compare it with float32, in this process or as the job of a worker process."""

from collections.abc import Callable
from dataclasses import dataclass
from math import inf
from typing import Any

from fewstep.measure.body_backends import backend_of, is_simulated
from fewstep.measure.rollouts.row_by_row import with_row_by_row_body
from fewstep.measure.sampling import Question
from fewstep.measure.simulation import Simulation
from fewstep.measure.workers.pinned_bundle import PinnedBundle
from fewstep.runtime.backends import Backend
from fewstep.runtime.backends.lru_cache import LruCache
from fewstep.runtime.backends.onnxruntime import OnnxRuntime
from fewstep.runtime.backends.registry import create_backend
from fewstep.runtime.bundle.platforms import ONNXRUNTIME
from fewstep.runtime.bundle.reading import Bundle, open_bundle
from fewstep.runtime.sampling.loading import load_body
from fewstep.runtime.sampling.sampler import Sampler


def open_body(bundle: Bundle, name: str, threads: int, by_rows: bool = False) -> Sampler:
    """Load a body on the backend that runs it as deployed. A body for a backend that is not on this machine is run by
    onnxruntime with Q/DQ pairs unfused, which simulates the arithmetic of that backend.

    by_rows: whether the body runs one row of a batch at a time.
    """
    body = bundle.body(name)
    backend: Backend = OnnxRuntime(threads=threads)
    if (other := backend_of(body)) != ONNXRUNTIME:
        backend = create_backend(other, threads)
    elif is_simulated(body):
        backend = Simulation(threads)
    sampler = load_body(bundle, name, backend)
    return with_row_by_row_body(sampler) if by_rows else sampler


@dataclass(frozen=True)
class SamplingJob:
    """A job of worker processes that answers questions by sampling a bundle's bodies. If `by_rows`, the bodies run one
    row of a batch at a time."""

    bundle: PinnedBundle
    by_rows: bool

    def open(self, threads: int) -> Callable[[Question[Any]], Any]:
        bundle, samplers = open_bundle(self.bundle.check_folder()), LruCache[str, Sampler](inf)

        def open_once(name: str) -> Sampler:
            return samplers.get_or_make(name, lambda: open_body(bundle, name, threads, self.by_rows))

        return lambda question: question.answer(open_once)
