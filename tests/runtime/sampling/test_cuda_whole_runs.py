"""Whole runs on a GPU: ONNX Runtime's CUDA provider records all steps of a file as one CUDA graph."""

import logging
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from threading import Barrier
from typing import Any

import numpy as np
import onnxruntime
import pytest

import fewstep.runtime
from fewstep.graph.bake.bake import bake
from fewstep.graph.bake.options import BakeOptions
from fewstep.plans.errors import UserError
from fewstep.plans.names.plan_reference import parse_plan_text
from fewstep.runtime.backends import onnxruntime_cuda
from fewstep.runtime.backends.onnxruntime_cuda import OnnxRuntimeCuda
from fewstep.runtime.backends.onnxruntime_cuda_graph import CudaGraphSession, DeviceTensors
from tests.refusals import refuses
from tests.runtime.sampling.test_whole_runs import CALL, PLAN, bake_run, count_calls, only_run, steps_and_whole

CPU = "CPUExecutionProvider"


@pytest.fixture
def on_cpu(monkeypatch: pytest.MonkeyPatch) -> list[dict[str, str]]:
    """Replace the GPU by the CPU, through the calls that CUDA would record. Return settings of the sessions."""
    seen, open_session = list[dict[str, str]](), onnxruntime_cuda.open_session

    def open_with(module: Any, graph: Path, provider: tuple[str, dict[str, str]]) -> Any:
        seen.append(provider[1])
        return open_session(module, graph, (CPU, {}))

    monkeypatch.setattr(onnxruntime_cuda, "PROVIDER", CPU)
    monkeypatch.setattr(onnxruntime_cuda, "DEVICE", "cpu")
    monkeypatch.setattr(onnxruntime_cuda, "open_session", open_with)
    return seen


def test_a_run_on_the_device_is_recorded_once(
    tiny_bundle: Path, on_cpu: list[dict[str, str]], monkeypatch: pytest.MonkeyPatch
) -> None:
    """All steps in one launch per call, from the second call on."""
    steps, whole = steps_and_whole(tiny_bundle, bake_run(tiny_bundle), backend=OnnxRuntimeCuda())
    session, launches = only_run(whole).call, list[bool]()
    assert isinstance(session, CudaGraphSession) and on_cpu[-1]["enable_cuda_graph"] == "1"
    run = onnxruntime.InferenceSession.run_with_iobinding

    def run_with_iobinding(self: Any, *arguments: Any) -> None:
        assert session._session is not None
        launches.append(self is session._session.session)
        run(self, *arguments)

    monkeypatch.setattr(onnxruntime.InferenceSession, "run_with_iobinding", run_with_iobinding)
    for seed in range(5):
        call = {**CALL, "seeds": [seed, seed + 9]}
        np.testing.assert_allclose(whole.sample(PLAN, **call), steps.sample(PLAN, **call), rtol=0, atol=1e-5)
    assert launches.count(True) == 4
    (bound,) = session._bound.values()
    assert isinstance(bound, DeviceTensors)


def test_a_run_that_cannot_be_recorded_is_replaced_by_its_steps_with_one_line(
    tiny_bundle: Path,
    on_cpu: list[dict[str, str]],
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    _, whole = steps_and_whole(tiny_bundle, file := bake_run(tiny_bundle), backend=OnnxRuntimeCuda())
    session, run = only_run(whole).call, onnxruntime.InferenceSession.run_with_iobinding
    assert isinstance(session, CudaGraphSession) and session._session is not None
    recorded = session._session.session

    def run_with_iobinding(self: Any, *arguments: Any) -> None:
        if self is recorded:
            raise RuntimeError("operation not permitted when stream is capturing")
        run(self, *arguments)

    monkeypatch.setattr(onnxruntime.InferenceSession, "run_with_iobinding", run_with_iobinding)
    with caplog.at_level(logging.WARNING, "fewstep"):
        for _ in range(3):
            whole.sample(PLAN, **CALL)
    assert caplog.messages == [f"{file.name}: calls run step by step: operation not permitted when stream is capturing"]
    with pytest.raises(RuntimeError, match="operation not permitted when stream is capturing"):
        session({"noise": np.zeros((2, 1, 4, 4), np.float32), "class": np.int64([0, 2])})


def test_first_calls_of_two_samplers_and_eight_threads_are_right(
    tiny_bundle: Path, on_cpu: list[dict[str, str]], monkeypatch: pytest.MonkeyPatch
) -> None:
    share = onnxruntime.OrtValue.numpy
    monkeypatch.setattr(onnxruntime.OrtValue, "numpy", lambda self: share(self).copy())  # as from a GPU
    file = bake_run(tiny_bundle)
    samplers = [fewstep.runtime.load(tiny_bundle, backend=OnnxRuntimeCuda(), whole_runs=[file]) for _ in range(2)]
    steps, calls = fewstep.runtime.load(tiny_bundle), [count_calls(sampler) for sampler in samplers]
    together = Barrier(8)

    def work(thread: int) -> list[np.ndarray]:
        together.wait(60)
        call = {**CALL, "seeds": [thread, thread + 9]}
        return [samplers[thread % 2].sample(PLAN, **call) for _ in range(4)]

    with ThreadPoolExecutor(8) as pool:
        found = list(pool.map(work, range(8)))
    for thread, samples in enumerate(found):
        expected = steps.sample(PLAN, **{**CALL, "seeds": [thread, thread + 9]})
        for sample in samples:
            np.testing.assert_allclose(sample, expected, rtol=0, atol=1e-5)
    assert [len(each) for each in calls] == [16, 16]


def test_a_file_that_the_provider_does_not_record_is_refused(
    tiny_bundle: Path, on_cpu: list[dict[str, str]], monkeypatch: pytest.MonkeyPatch
) -> None:
    file, inner = bake_run(tiny_bundle), onnxruntime_cuda.open_session

    def refuse(module: Any, graph: Path, provider: tuple[str, dict[str, str]]) -> Any:
        if graph == file:
            raise UserError("CUDA graphs take no control flow", "none")
        return inner(module, graph, provider)

    monkeypatch.setattr(onnxruntime_cuda, "open_session", refuse)
    with refuses("CUDA graphs take no control flow", "bake it with"):
        fewstep.runtime.load(tiny_bundle, backend=OnnxRuntimeCuda(), whole_runs=[file])


@pytest.mark.gpu
@pytest.mark.skipif("CUDAExecutionProvider" not in onnxruntime.get_available_providers(), reason="has no provider")
@pytest.mark.parametrize(("backend", "limit"), [(None, 1e-4), (OnnxRuntimeCuda(), 1e-5)], ids=["CPU", "GPU"])
def test_a_whole_run_on_a_gpu_has_the_samples_of_the_steps(
    exported_fashion_mnist: Path, tmp_path: Path, backend: OnnxRuntimeCuda | None, limit: float
) -> None:
    file = tmp_path / "run.onnx"
    bake(BakeOptions(exported_fashion_mnist, parse_plan_text("dpmpp_2m:8"), file, guidance=2.0, batch=2, unroll=True))
    whole = fewstep.runtime.load(exported_fashion_mnist, backend=OnnxRuntimeCuda(), whole_runs=[file])
    calls = count_calls(whole)
    steps = fewstep.runtime.load(exported_fashion_mnist, backend=backend)
    for seed in range(4):
        call: dict[str, Any] = {"seeds": [seed, seed + 9], "condition": {"class": [seed, 3]}, "guidance": 2.0}
        expected = steps.sample("dpmpp_2m:8", **call)
        np.testing.assert_allclose(whole.sample("dpmpp_2m:8", **call), expected, rtol=0, atol=limit)
    assert len(calls) == 4 and not only_run(whole).problem
