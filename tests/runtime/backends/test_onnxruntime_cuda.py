"""ONNX Runtime's CUDA provider under the backend protocol, through the same code on the CPU where possible."""

import logging
import threading
import time
from concurrent.futures import ThreadPoolExecutor, TimeoutError
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
import pytest

import fewstep.runtime
from fewstep.plans.errors import UserError
from fewstep.runtime.backends import onnxruntime_cuda
from fewstep.runtime.backends.device_lock import device_lock
from fewstep.runtime.backends.onnxruntime import OnnxRuntime, Session
from fewstep.runtime.backends.onnxruntime_cuda import OnnxRuntimeCuda, open_session
from fewstep.runtime.backends.onnxruntime_cuda_graph import SHAPES, CudaGraphSession, DeviceTensors
from fewstep.runtime.bundle.reading import open_bundle
from tests.refusals import refuses

CPU = "CPUExecutionProvider"


def test_a_graph_that_does_not_load_is_named(tmp_path: Path) -> None:
    (tmp_path / "broken.onnx").write_bytes(b"not a graph")
    with pytest.raises(UserError, match=rf"cannot load broken\.onnx on {CPU}"):
        open_session(onnxruntime, tmp_path / "broken.onnx", (CPU, {}))


@pytest.mark.skipif("CUDAExecutionProvider" in onnxruntime.get_available_providers(), reason="has the provider")
def test_a_build_without_the_provider_is_refused(tiny_bundle: Path) -> None:
    with pytest.raises(UserError, match=r"was built without CUDAExecutionProvider; .* 'fewstep\[gpu\]'"):
        fewstep.runtime.load(tiny_bundle, backend=OnnxRuntimeCuda())


@pytest.mark.filterwarnings("ignore:Specified provider")
def test_a_provider_that_does_not_start_is_never_replaced_by_the_cpu(
    tiny_bundle: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(onnxruntime, "get_available_providers", lambda: ["CUDAExecutionProvider"])
    monkeypatch.setattr(onnxruntime.InferenceSession, "get_providers", lambda self: [CPU])
    with pytest.raises(UserError, match="cannot start CUDAExecutionProvider; .*cudnn"):
        OnnxRuntimeCuda().load(open_bundle(tiny_bundle), "float32")


def test_int8_is_no_precision_of_the_provider(tiny_bundle: Path) -> None:
    with refuses("int8", "float32, float16, bfloat16"):
        fewstep.runtime.load(tiny_bundle, "int8", backend=OnnxRuntimeCuda())


def replay(bundle: Path) -> tuple[CudaGraphSession, Session]:
    """Return a body on the CPU, which records nothing, through the calls that CUDA would record; and without them."""
    plain = OnnxRuntime().load(open_bundle(bundle), "float32")
    assert isinstance(plain, Session)
    return CudaGraphSession(onnxruntime, plain, lambda: plain, ("cpu", 0)), plain


def feeds(plain: Session, batch: int, seed: int) -> dict[str, Any]:
    drawn = np.random.default_rng(seed)
    return {
        port.name: drawn.standard_normal((batch, *port.shape[1:])).astype(np.float32)
        for port in plain.session.get_inputs()
    }


def test_calls_of_memory_that_stays_are_those_of_the_session(tiny_bundle: Path) -> None:
    """Batches in turn: those that occur once, those that are recorded, and more than are kept."""
    recorded, plain = replay(tiny_bundle)
    for seed, batch in enumerate([1, 2, 1, 1, 3, 2, 4, 5, 6, 5, 5, 1]):
        given = feeds(plain, batch, seed)
        for name, value in plain(given).items():
            np.testing.assert_array_equal(recorded(given)[name], value)
    assert len(recorded._bound) == SHAPES
    recordings = [isinstance(bound, DeviceTensors) for bound in recorded._bound.values()]
    assert recordings == [True, True, False, False]  # called again, or once


def test_a_call_that_cannot_be_recorded_runs_as_it_is(
    tiny_bundle: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    recorded, plain = replay(tiny_bundle)

    def fail(self: object, *arguments: object) -> None:
        raise RuntimeError("operation not permitted when stream is capturing")

    monkeypatch.setattr(onnxruntime.InferenceSession, "run_with_iobinding", fail)
    given, held = feeds(plain, 2, 0), []
    recorded._plain = lambda: held.append(recorded._session) or plain
    with caplog.at_level(logging.WARNING, "fewstep"):
        found = [recorded(given) for _ in range(4)]
    assert [record.getMessage().partition(": ")[2] for record in caplog.records] == [
        "operation not permitted when stream is capturing"
    ]
    assert held == [None]  # two sessions would hold the weights twice
    for name, value in plain(given).items():
        assert all(np.array_equal(each[name], value) for each in found)


def test_a_recording_that_lacks_memory_is_tried_again_later(
    tiny_bundle: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    recorded, plain = replay(tiny_bundle)
    run, tries = onnxruntime.InferenceSession.run_with_iobinding, []

    def lack_memory_twice(self: Any, *arguments: Any) -> None:
        tries.append(len(found))
        if len(tries) <= 2:
            raise RuntimeError("CUDA failure 2: out of memory ; GPU=0")
        run(self, *arguments)

    monkeypatch.setattr(onnxruntime.InferenceSession, "run_with_iobinding", lack_memory_twice)
    recorded._plain = lambda: pytest.fail("the session is of use")
    given, found = feeds(plain, 2, 0), list[dict[str, Any]]()
    with caplog.at_level(logging.WARNING, "fewstep"):
        for _ in range(8):
            found.append(recorded(given))
    assert caplog.records == []
    assert tries == [1, 3, 6, 7]  # by calls before: the second, two later, three later, and then each is a replay
    for name, value in plain(given).items():
        assert all(np.array_equal(each[name], value) for each in found)


def test_a_replay_that_fails_is_not_tried_again(tiny_bundle: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    recorded, plain = replay(tiny_bundle)
    given, run, calls, opened = feeds(plain, 1, 0), onnxruntime.InferenceSession.run_with_iobinding, [], []

    def fail_third(self: Any, *arguments: Any) -> None:
        calls.append(1)
        if len(calls) == 3:
            raise RuntimeError("CUDA failure 2: out of memory ; GPU=0")
        run(self, *arguments)

    monkeypatch.setattr(onnxruntime.InferenceSession, "run_with_iobinding", fail_third)
    recorded._plain = lambda: opened.append(len(calls)) or plain
    for _ in range(6):
        recorded(given)
    assert opened == [3] and len(calls) == 3


def call_from_threads(sessions: list[CudaGraphSession], given: list[dict[str, Any]], calls: int) -> list[Any]:
    """Return the results of calls of each session by 8 threads that begin together: thread t calls given[t]."""
    together = threading.Barrier(8)

    def work(thread: int) -> list[dict[str, Any]]:
        together.wait(60)
        return [sessions[thread % len(sessions)](given[thread]) for _ in range(calls)]

    with ThreadPoolExecutor(8) as pool:
        return list(pool.map(work, range(8)))


def test_recordings_run_alone_on_their_device(tiny_bundle: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Two samplers and eight threads, whose first calls come together."""
    samplers = [replay(tiny_bundle) for _ in range(2)]
    plain, sessions = samplers[0][1], [recorded for recorded, _ in samplers]
    given = [feeds(plain, 1 + thread // 4, thread) for thread in range(8)]
    expected = [plain(each) for each in given]
    active, together, alone, seen = set[object](), set[int](), list[int](), set[int]()
    run, run_bound = onnxruntime.InferenceSession.run, onnxruntime.InferenceSession.run_with_iobinding
    share = onnxruntime.OrtValue.numpy
    monkeypatch.setattr(onnxruntime.OrtValue, "numpy", lambda self: share(self).copy())  # as from a GPU

    def enter(call: Any, *arguments: Any) -> Any:
        token = object()
        active.add(token)
        together.add(len(active))
        time.sleep(0.002)
        try:
            return call(*arguments)
        finally:
            active.discard(token)

    def run_with_iobinding(self: Any, binding: Any, options: Any) -> None:
        if id(binding) in seen:
            return enter(run_bound, self, binding, options)
        seen.add(id(binding))  # a recording
        alone.append(len(active))
        enter(run_bound, self, binding, options)
        alone.append(len(active))

    monkeypatch.setattr(onnxruntime.InferenceSession, "run", lambda *arguments: enter(run, *arguments))
    monkeypatch.setattr(onnxruntime.InferenceSession, "run_with_iobinding", run_with_iobinding)
    for results, right in zip(call_from_threads(sessions, given, 6), expected, strict=True):
        for name, value in right.items():
            assert all(np.array_equal(result[name], value) for result in results)
    assert len(seen) == 4 and alone == [0] * 8  # two shapes of each
    assert max(together) == 2  # other calls of the two samplers run together


@pytest.mark.parametrize("name", ["prologue", "float32"])
def test_calls_that_are_not_recorded_wait_for_recordings(
    tiny_bundle: Path, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    """Calls of a prologue, and of a body that the provider does not record."""

    def open_on_cpu(module: Any, graph: Path, provider: tuple[str, dict[str, str]]) -> Any:
        if provider[1]["enable_cuda_graph"] == "1":
            raise UserError("no graph", "none")
        return OnnxRuntime().open(graph).session

    monkeypatch.setattr(onnxruntime, "get_available_providers", lambda: ["CUDAExecutionProvider"])
    monkeypatch.setattr(onnxruntime_cuda, "open_session", open_on_cpu)
    bundle = open_bundle(tiny_bundle)
    network, plain = OnnxRuntimeCuda(device=7).load(bundle, name), OnnxRuntime().load(bundle, name)
    assert isinstance(plain, Session)
    types = {"tensor(int64)": np.int64, "tensor(float)": np.float32}
    given = {
        port.name: np.ones([size if isinstance(size, int) else 2 for size in port.shape], types[port.type])
        for port in plain.session.get_inputs()
    }
    with ThreadPoolExecutor(1) as pool:
        with device_lock("cuda", 7).alone():
            called = pool.submit(network, given)
            with pytest.raises(TimeoutError):
                called.result(0.05)
        for output, value in plain(given).items():
            np.testing.assert_array_equal(called.result(60)[output], value)


def test_one_thread_makes_all_calls_of_a_session(tiny_bundle: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """ONNX Runtime keeps separate recordings for each thread."""
    recorded, plain = replay(tiny_bundle)
    given, threads, run = feeds(plain, 1, 0), set[int](), onnxruntime.InferenceSession.run_with_iobinding

    def run_with_iobinding(self: Any, *arguments: Any) -> None:
        threads.add(threading.get_ident())
        run(self, *arguments)

    monkeypatch.setattr(onnxruntime.InferenceSession, "run_with_iobinding", run_with_iobinding)
    call_from_threads([recorded], [given] * 8, 3)
    assert len(threads) == 1 and threading.get_ident() not in threads


@pytest.mark.gpu
@pytest.mark.skipif("CUDAExecutionProvider" not in onnxruntime.get_available_providers(), reason="has no provider")
def test_first_calls_of_two_samplers_and_eight_threads_are_right(
    tiny_bundle: Path, caplog: pytest.LogCaptureFixture
) -> None:
    bundle = open_bundle(tiny_bundle)
    plain = OnnxRuntime().load(bundle, "float32")
    assert isinstance(plain, Session)
    sessions = [OnnxRuntimeCuda().load(bundle, "float32") for _ in range(2)]
    assert all(isinstance(session, CudaGraphSession) for session in sessions)
    given = [feeds(plain, 1 + thread // 4, thread) for thread in range(8)]
    with caplog.at_level(logging.WARNING, "fewstep"):
        found = call_from_threads([session for session in sessions if isinstance(session, CudaGraphSession)], given, 20)
    assert caplog.records == []
    for results, each in zip(found, given, strict=True):
        for name, value in plain(each).items():
            for result in results:
                np.testing.assert_allclose(result[name], value, rtol=1e-4, atol=1e-5)
