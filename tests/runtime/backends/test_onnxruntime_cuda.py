"""ONNX Runtime's CUDA provider behind the backend protocol: by the same code on the CPU, where it can be."""

from pathlib import Path

import onnxruntime
import pytest

import fewstep.runtime
from fewstep.plans.errors import UserError
from fewstep.runtime.backends.onnxruntime_cuda import OnnxRuntimeCuda, open_session
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
