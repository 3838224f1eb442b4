"""Samplers that run a deployed denoiser on this machine's GPU."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime

from benchmarks.gpu.deployed import BATCHES, ENGINE_PRECISIONS, Deployed, Sample, on_backend
from fewstep.graph.bake.bake import bake
from fewstep.graph.bake.options import BakeOptions
from fewstep.plans import noise
from fewstep.plans.names.plan_reference import parse_plan_text
from fewstep.runtime.backends.onnxruntime import OnnxRuntime, Session
from fewstep.runtime.backends.onnxruntime_cuda import PROVIDER, OnnxRuntimeCuda, open_session, provider_settings
from fewstep.runtime.backends.onnxruntime_cuda_form import FORM_ONLY, FormSession
from fewstep.runtime.backends.onnxruntime_cuda_graph import CudaGraphSession
from fewstep.runtime.backends.tensorrt import BODIES, TensorRt
from fewstep.runtime.bundle.reading import open_bundle
from fewstep.runtime.sampling.loading import load

STEPS, UNROLLED, LOOP = "onnxruntime-cuda", "onnxruntime-cuda, unrolled file", "onnxruntime-cuda, baked file"
FORM, WHOLE = "onnxruntime-cuda, form", "onnxruntime-cuda, whole run of the form"
CPU = ("CPUExecutionProvider", dict[str, str]())


@dataclass(frozen=True)
class Contender:
    """A sampler: `open` loads it, which may fail. precision: of its network."""

    name: str
    precision: str
    open: Callable[[], Sample]


def contenders(of: Deployed, tensorrt: str = "", device: str = "cuda") -> Iterator[Contender]:
    """Return all contenders that may run a bundle here, the most informative first. tensorrt: the installed package,
    or nothing. device: cpu for a rehearsal.
    """
    for precision in ENGINE_PRECISIONS if tensorrt else ():
        body = BODIES[precision][0]
        for said, graph in (("", False), (", CUDA graph", True)):
            backend = TensorRt(tensorrt, cuda_graph=graph)  # type: ignore[arg-type]
            yield Contender(f"{tensorrt}{said}", precision, on_backend(of, body, backend))
    is_cuda = device == "cuda"
    for precision in of.precisions:
        yield Contender(
            FORM, precision, in_form(of, precision) if is_cuda else on_backend(of, precision, OnnxRuntime())
        )
    for precision in of.precisions:
        yield Contender(WHOLE, precision, as_whole_runs(of, precision, device))
    for precision in of.portable:
        backend_here = OnnxRuntimeCuda(form=False) if is_cuda else OnnxRuntime()
        yield Contender(STEPS, precision, on_backend(of, precision, backend_here))
    for precision in of.portable:
        yield Contender(UNROLLED, precision, in_unrolled_file(of, precision, device))
    for precision in of.portable:
        yield Contender(LOOP, precision, in_baked_file(of, precision, device))


def in_form(of: Deployed, body: str) -> Callable[[], Sample]:
    """Return the product's sampler of a bundle with the form for the provider. Raises an error if no form runs."""

    def open_sampler() -> Sample:
        sampler = load(of.bundle, body=body, backend=OnnxRuntimeCuda(form=True))
        graph, plan = sampler.network().graph, sampler.compile(of.member.plan, of.member.guidance)

        def sample(seeds: Sequence[int]) -> np.ndarray:
            sampler.forget()  # timing repeats its conditions
            samples = np.asarray(sampler.sample(plan, seeds, of.conditions(seeds)))
            if body != FORM_ONLY and not (isinstance(graph, FormSession) and graph.runs_form):
                raise RuntimeError("there is no form with fewer kernels, or the provider does not run it")
            return samples

        return sample

    return open_sampler


def as_whole_runs(of: Deployed, body: str, device: str) -> Callable[[], Sample]:
    """Return the product's sampler with a file of all steps for each batch, in the form for the CUDA provider. The
    CPU cannot run this form, and gets the portable graph.
    """

    def open_sampler() -> Sample:
        files = [of.unrolled_file(body if device == "cpu" else f"{body}-cuda", batch) for batch in BATCHES]
        backend = OnnxRuntimeCuda() if device == "cuda" else OnnxRuntime()
        sampler = load(of.bundle, body=body, backend=backend, whole_runs=files)
        plan = sampler.compile(of.member.plan, of.member.guidance)

        def sample(seeds: Sequence[int]) -> np.ndarray:
            batch = next(each for each in BATCHES if each >= len(seeds))
            padded = [*seeds, *[seeds[-1]] * (batch - len(seeds))]
            samples = sampler.sample(plan, padded, of.conditions(padded))
            for each in () if sampler.whole_runs is None else sampler.whole_runs.runs.values():
                if each.problem:
                    raise RuntimeError(f"{each.name}: {each.problem}")
            return np.asarray(samples[: len(seeds)])

        return sample

    return open_sampler


def in_baked_file(of: Deployed, body: str, device: str) -> Callable[[], Sample]:
    """Return a sampler of the baked file, whose Loop keeps the state on the provider's device."""

    def open_sampler() -> Sample:
        output = of.bundle.with_name(f"{of.bundle.name}-{body}.onnx")
        plan = parse_plan_text(of.member.plan)
        _, (file, *_) = bake(BakeOptions(of.bundle, plan, output, body=body, guidance=of.member.guidance))
        find_libraries(device)
        session = open_session(onnxruntime, Path(file), settings(device))
        draw = inputs_of(of)

        def sample(seeds: Sequence[int]) -> np.ndarray:
            return np.asarray(session.run(None, draw(seeds))[0])

        return sample

    return open_sampler


def in_unrolled_file(of: Deployed, body: str, device: str) -> Callable[[], Sample]:
    """Return a sampler of files with all steps, one for each batch. A run is one CUDA graph, without work of the
    host between steps.
    """

    def open_sampler() -> Sample:
        draw, calls = inputs_of(of), dict[int, Callable[[Any], Any]]()

        def sample(seeds: Sequence[int]) -> np.ndarray:
            batch = next(each for each in BATCHES if each >= len(seeds))
            if batch not in calls:
                calls[batch] = record_file(of.unrolled_file(body, batch), device)
            padded = [*seeds, *[seeds[-1]] * (batch - len(seeds))]
            samples = next(iter(calls[batch](draw(padded)).values()))
            return np.asarray(samples[: len(seeds)])

        return sample

    return open_sampler


def record_file(file: Path, device: str) -> Callable[[dict[str, np.ndarray]], dict[str, np.ndarray]]:
    """Open a file whose calls are replayed as one CUDA graph; on the CPU, a file. Raises UserError if it cannot be
    recorded.
    """
    find_libraries(device)
    session = open_session(onnxruntime, file, settings(device, cuda_graph=True))
    names = tuple(port.name for port in session.get_outputs())
    loaded = Session(file.name, session, names, takes_optional=False)
    if device != "cuda":
        return loaded
    return CudaGraphSession(onnxruntime, loaded, None, ("cuda", 0))


def settings(device: str, cuda_graph: bool = False) -> tuple[str, dict[str, str]]:
    """Return the provider that computes, with its settings."""
    return (PROVIDER, provider_settings(0, cuda_graph)) if device == "cuda" else CPU


def find_libraries(device: str) -> None:
    """Let onnxruntime find CUDA and cuDNN in pip's packages."""
    if device == "cuda":
        onnxruntime.preload_dlls()


def inputs_of(of: Deployed) -> Callable[[Sequence[int]], dict[str, np.ndarray]]:
    """Return a function from seeds to the inputs of a baked run."""
    shape = open_bundle(of.bundle).manifest.x_shape
    return lambda seeds: {"noise": noise.normal_batch(seeds, 0, shape), **of.conditions(seeds)}
