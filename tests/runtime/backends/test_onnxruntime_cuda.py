"""ONNX Runtime's CUDA provider behind the backend protocol. Bound memory is tested on the CPU, by the same code."""

import sys
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
import pytest

import fewstep.runtime
from fewstep.graph import io
from fewstep.graph.half_types import FLOAT16
from fewstep.graph.passes.half import to_half
from fewstep.plans.errors import UserError
from fewstep.runtime.backends import LoadedGraph, graph_of
from fewstep.runtime.backends.onnxruntime import OnnxRuntime
from fewstep.runtime.backends.onnxruntime_cuda import BODIES, OnnxRuntimeCuda, bind, open_session
from fewstep.runtime.bundle.reading import Bundle, open_bundle
from tests.runtime.backends.built import feeds


@dataclass(frozen=True)
class BoundOnCpu:
    """The backend's way of binding, on the CPU provider."""

    contexts: int = 1
    bodies = BODIES

    def load(self, bundle: Bundle, name: str) -> LoadedGraph:
        return self.open(bundle.graph(graph_of(bundle, name)))

    def open(self, graph: Path) -> LoadedGraph:
        session = open_session(onnxruntime, graph, ("CPUExecutionProvider", {}))
        return bind(onnxruntime, session, graph.name, ("cpu", 0), self.contexts)


@pytest.fixture
def float16_body(tiny_bundle: Path, tmp_path: Path) -> Path:
    path = tmp_path / "float16.onnx"
    io.save(to_half(io.load(tiny_bundle / "graphs/body.onnx"), FLOAT16), path)
    return path


def test_bound_memory_gives_the_samples_of_plain_calls(tiny_bundle: Path) -> None:
    options: dict[str, Any] = {"seeds": [0, 1, 2], "condition": {"class": [0, 1, 2]}, "guidance": 2.0}
    expected = fewstep.runtime.load(tiny_bundle, backend=OnnxRuntime()).sample("dpmpp_2m:8", **options)
    with fewstep.runtime.load(tiny_bundle, backend=BoundOnCpu()) as sampler:
        np.testing.assert_array_equal(sampler.sample("dpmpp_2m:8", **options), expected)


def test_float16_is_near_float32(tiny_bundle: Path, float16_body: Path) -> None:
    rng = np.random.default_rng(0)
    given = {
        "x": rng.standard_normal((4, 1, 4, 4)).astype(np.float32),
        "row": rng.random((4, 1)).astype(np.float32),
    }
    half = BoundOnCpu().open(float16_body)(given)["v"]
    whole = BoundOnCpu().open(tiny_bundle / "graphs/body.onnx")(given)["v"]
    assert half.dtype == np.float32 and 0 < np.abs(half - whole).max() < 2e-2


def test_results_outlive_the_next_call_and_batches_take_turns(tiny_bundle: Path) -> None:
    network = BoundOnCpu().open(tiny_bundle / "graphs/body.onnx")
    results = [(value, network(feeds(value, 1 + value % 7))["v"]) for value in range(30)]  # more sizes than are kept
    for value, result in results:
        np.testing.assert_array_equal(result, np.full((1 + value % 7, 1, 4, 4), value / 2 + 1, np.float32))


@pytest.mark.parametrize("contexts", [1, 3])
def test_threads_share_a_network(tiny_bundle: Path, contexts: int) -> None:
    network = BoundOnCpu(contexts).open(tiny_bundle / "graphs/body.onnx")
    with ThreadPoolExecutor(8) as pool:
        results = list(pool.map(lambda value: network(feeds(value, 1 + value % 3))["v"], range(100)))
    for value, result in enumerate(results):
        np.testing.assert_array_equal(result, np.full((1 + value % 3, 1, 4, 4), value / 2 + 1, np.float32))


def test_wrong_types_and_shapes_are_named(tiny_bundle: Path) -> None:
    network = BoundOnCpu().open(tiny_bundle / "graphs/body.onnx")
    with pytest.raises(UserError, match="input 'x' is float32, given is float64"):
        network(feeds(0) | {"x": np.zeros((2, 1, 4, 4))})
    with pytest.raises(UserError, match="input 'row' is float32, given is nothing"):
        network({"x": np.zeros((2, 1, 4, 4), np.float32)})
    with pytest.raises(UserError, match=r"input 'x' is \['batch', 1, 4, 4\], given is \[2, 4\]"):
        network(feeds(0) | {"x": np.zeros((2, 4), np.float32)})
    with pytest.raises(UserError, match=r"body\.onnx failed on inputs x \[2, 3, 4, 4\]"):
        network(feeds(0) | {"x": np.zeros((2, 3, 4, 4), np.float32)})


def test_a_graph_that_does_not_load_is_named(tmp_path: Path) -> None:
    (tmp_path / "broken.onnx").write_bytes(b"not a graph")
    with pytest.raises(UserError, match=r"cannot load broken\.onnx on CPUExecutionProvider"):
        BoundOnCpu().open(tmp_path / "broken.onnx")


@pytest.mark.skipif("CUDAExecutionProvider" in onnxruntime.get_available_providers(), reason="has the provider")
def test_a_build_without_the_provider_is_refused(tiny_bundle: Path) -> None:
    with pytest.raises(UserError, match=r"was built without CUDAExecutionProvider; .* 'fewstep\[gpu\]'"):
        fewstep.runtime.load(tiny_bundle, backend=OnnxRuntimeCuda())


@pytest.mark.filterwarnings("ignore:Specified provider")
def test_a_provider_that_does_not_start_is_never_replaced_by_the_cpu(
    tiny_bundle: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(onnxruntime, "get_available_providers", lambda: ["CUDAExecutionProvider"])
    monkeypatch.setattr(onnxruntime.InferenceSession, "get_providers", lambda self: ["CPUExecutionProvider"])
    with pytest.raises(UserError, match="without CUDAExecutionProvider: it did not start; .*cudnn"):
        OnnxRuntimeCuda().load(open_bundle(tiny_bundle), "float32")


def test_without_onnxruntime_the_fix_is_a_pip_command(tiny_bundle: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "onnxruntime", None)
    with pytest.raises(UserError, match=r"pip install 'fewstep\[gpu\]'"):
        OnnxRuntimeCuda().load(open_bundle(tiny_bundle), "float32")


def test_int8_is_no_precision_of_the_provider(tiny_bundle: Path) -> None:
    with pytest.raises(UserError, match="backend OnnxRuntimeCuda has no int8; choose one of float32, float16, or"):
        fewstep.runtime.load(tiny_bundle, "int8", backend=OnnxRuntimeCuda())
