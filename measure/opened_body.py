"""A body of a bundle opened to be judged, in this process or as the job of a worker."""

from collections.abc import Callable
from dataclasses import dataclass
from math import inf
from typing import Any

from fewstep.measure.body_backends import backend_of, is_simulated
from fewstep.measure.rollouts.row_by_row import body_by_rows
from fewstep.measure.sampling import Question
from fewstep.measure.simulation import Simulation
from fewstep.measure.workers.pinned_bundle import PinnedBundle
from fewstep.runtime.backends import Backend
from fewstep.runtime.backends.named import named
from fewstep.runtime.backends.onnxruntime import OnnxRuntime
from fewstep.runtime.backends.recent import Recent
from fewstep.runtime.bundle.platforms import ONNXRUNTIME
from fewstep.runtime.bundle.reading import Bundle, open_bundle
from fewstep.runtime.loading import load
from fewstep.runtime.sampler import Sampler


def open_body(bundle: Bundle, name: str, threads: int, by_rows: bool = False) -> Sampler:
    """A body on its backend, fused as it is deployed, or with Q/DQ kept, which simulates another's numerics. With
    `by_rows` it sees one row at a time."""
    body = bundle.body(name)
    backend: Backend = OnnxRuntime(threads=threads)
    if (other := backend_of(body)) != ONNXRUNTIME:
        backend = named(other, threads)
    elif is_simulated(body):
        backend = Simulation(threads)
    sampler = load(bundle.path, body=name, backend=backend)
    return body_by_rows(sampler) if by_rows else sampler


@dataclass(frozen=True)
class SamplingJob:
    """The bundle whose bodies are asked. by_rows: whether bodies see one row at a time."""

    bundle: PinnedBundle
    by_rows: bool

    def open(self, threads: int) -> Callable[[Question[Any]], Any]:
        bundle, samplers = open_bundle(self.bundle.folder()), Recent[str, Sampler](inf)

        def opened(name: str) -> Sampler:
            return samplers.used(name, lambda: open_body(bundle, name, threads, self.by_rows))

        return lambda question: question.answer(opened)
