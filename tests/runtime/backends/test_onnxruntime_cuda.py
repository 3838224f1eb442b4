"""ONNX Runtime's CUDA provider behind the backend protocol: by the same code on the CPU, where it can be."""

import logging
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
import pytest

import fewstep.runtime
from fewstep.plans.errors import UserError
from fewstep.runtime.backends.onnxruntime import OnnxRuntime, Session
from fewstep.runtime.backends.onnxruntime_cuda import OnnxRuntimeCuda, open_session
from fewstep.runtime.backends.onnxruntime_cuda_graph import SHAPES, CudaGraphSession
from fewstep.runtime.bundle.reading import open_bundle

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
    with pytest.raises(UserError, match="without CUDAExecutionProvider: it did not start; .*cudnn"):
        OnnxRuntimeCuda().load(open_bundle(tiny_bundle), "float32")


def test_int8_is_no_precision_of_the_provider(tiny_bundle: Path) -> None:
    with pytest.raises(UserError, match="backend OnnxRuntimeCuda has no int8; choose one of float32, float16, or"):
        fewstep.runtime.load(tiny_bundle, "int8", backend=OnnxRuntimeCuda())


def replayed(bundle: Path) -> tuple[CudaGraphSession, Session]:
    """A body on the CPU, which records nothing, by the calls that CUDA would record; and as it is."""
    plain = OnnxRuntime().load(open_bundle(bundle), "float32")
    assert isinstance(plain, Session)
    return CudaGraphSession(onnxruntime, plain, lambda: plain, ("cpu", 0)), plain


def feeds(plain: Session, batch: int, seed: int) -> dict[str, Any]:
    drawn = np.random.default_rng(seed)
    return {
        each.name: drawn.standard_normal((batch, *each.shape[1:])).astype(np.float32)
        for each in plain.session.get_inputs()
    }


def test_calls_of_memory_that_stays_are_those_of_the_session(tiny_bundle: Path) -> None:
    """Batches in turn: those that come once, those that are recorded, and more than are kept."""
    recorded, plain = replayed(tiny_bundle)
    for seed, batch in enumerate([1, 2, 1, 1, 3, 2, 4, 5, 6, 5, 5, 1]):
        given = feeds(plain, batch, seed)
        for name, value in plain(given).items():
            np.testing.assert_array_equal(recorded(given)[name], value)
    assert len(recorded._bound) == SHAPES
    assert [bound is not None for bound in recorded._bound.values()] == [True, True, False, False]  # once, or more


def test_a_call_that_cannot_be_recorded_runs_as_it_is(
    tiny_bundle: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    recorded, plain = replayed(tiny_bundle)

    def fail(self: object, *arguments: object) -> None:
        raise RuntimeError("operation not permitted when stream is capturing")

    monkeypatch.setattr(onnxruntime.InferenceSession, "run_with_iobinding", fail)
    given, held = feeds(plain, 2, 0), []
    recorded._plain = lambda: held.append(recorded._session) or plain
    with caplog.at_level(logging.WARNING, "fewstep"):
        found = [recorded(given) for _ in range(4)]
    assert [each.getMessage().partition(": ")[2] for each in caplog.records] == [
        "operation not permitted when stream is capturing"
    ]
    assert held == [None]  # two sessions would hold the weights twice
    for name, value in plain(given).items():
        assert all(np.array_equal(each[name], value) for each in found)
