"""ONNX Runtime's CUDA provider behind the backend protocol: by the same code on the CPU, where it can be."""

import sys
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
import pytest

import fewstep.runtime
from fewstep.plans.errors import UserError
from fewstep.runtime.backends import onnxruntime_cuda
from fewstep.runtime.backends.onnxruntime_cuda import OnnxRuntimeCuda, open_session
from fewstep.runtime.bundle.reading import open_bundle
from tests.runtime.backends.built import feeds

CPU = "CPUExecutionProvider"


@pytest.fixture
def on_cpu(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(onnxruntime_cuda, "PROVIDER", CPU)
    monkeypatch.setattr(onnxruntime_cuda, "provider_settings", lambda device: {})


@pytest.mark.usefixtures("on_cpu")
def test_its_samples_are_those_of_the_cpu(tiny_bundle: Path) -> None:
    options: dict[str, Any] = {"seeds": [0, 1, 2], "condition": {"class": [0, 1, 2]}, "guidance": 2.0}
    expected = fewstep.runtime.load(tiny_bundle).sample("dpmpp_2m:8", **options)
    with fewstep.runtime.load(tiny_bundle, backend=OnnxRuntimeCuda()) as sampler:
        np.testing.assert_array_equal(sampler.sample("dpmpp_2m:8", **options), expected)


@pytest.mark.usefixtures("on_cpu")
def test_wrong_types_and_shapes_are_named(tiny_bundle: Path) -> None:
    network = OnnxRuntimeCuda().load(open_bundle(tiny_bundle), "float32")
    for wrong in (np.zeros((2, 1, 4, 4)), np.zeros((2, 4), np.float32), np.zeros((2, 3, 4, 4), np.float32)):
        with pytest.raises(UserError, match=r"body\.onnx failed on inputs x "):
            network(feeds(0) | {"x": wrong})
    with pytest.raises(UserError, match="failed on inputs x .*row"):
        network({"x": np.zeros((2, 1, 4, 4), np.float32)})


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


def test_without_onnxruntime_the_fix_is_a_pip_command(tiny_bundle: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "onnxruntime", None)
    with pytest.raises(UserError, match=r"pip install 'fewstep\[gpu\]'"):
        OnnxRuntimeCuda().load(open_bundle(tiny_bundle), "float32")


def test_int8_is_no_precision_of_the_provider(tiny_bundle: Path) -> None:
    with pytest.raises(UserError, match="backend OnnxRuntimeCuda has no int8; choose one of float32, float16, or"):
        fewstep.runtime.load(tiny_bundle, "int8", backend=OnnxRuntimeCuda())
