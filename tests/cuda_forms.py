"""A bundle with the form of its body for ONNX Runtime's CUDA provider, which the CPU provider replaces."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from fewstep.graph.engines.build import build
from fewstep.graph.engines.build_options import BuildOptions
from fewstep.runtime.backends import onnxruntime_cuda
from fewstep.runtime.backends.onnxruntime_cuda_form import BACKEND
from tests.bundles import write_graphs
from tests.onnx_text import graph_of_text

CPU = "CPUExecutionProvider"
ATTENTION = """(float[batch, 5, 8] x) => (float[batch, 5, 8] v) {
    keys = Transpose <perm = [0, 2, 1]> (x) scaled = Mul(x, third) scores = MatMul(scaled, keys)
    shares = Softmax <axis = -1> (scores) v = MatMul(shares, x)
}"""
NORM = """(float[batch, 4, 3, 3] x) => (float[batch, 4, 3, 3] v) {
    c = Conv(x, mix) g = Reshape(c, groups) i = InstanceNormalization(g, ones, zeros) n = Reshape(i, whole)
    s = Sigmoid(n) v = Mul(n, s)
}"""


@pytest.fixture(name="provider")
def run_on_cpu(monkeypatch: pytest.MonkeyPatch) -> list[dict[str, str]]:
    """Replace the CUDA provider by the CPU's, which computes the same MultiHeadAttention. Return the settings of its
    sessions.
    """
    seen = list[dict[str, str]]()

    def settings(device: int, cuda_graph: bool = False) -> dict[str, str]:
        return {"cuda_graph": str(cuda_graph)}

    open_session = onnxruntime_cuda.open_session

    def open_with(module: Any, graph: Path, chosen: tuple[str, dict[str, str]]) -> Any:
        seen.append(chosen[1])
        return open_session(module, graph, (CPU, {}))

    monkeypatch.setattr(onnxruntime_cuda, "PROVIDER", CPU)
    monkeypatch.setattr(onnxruntime_cuda, "provider_settings", settings)
    monkeypatch.setattr(onnxruntime_cuda, "open_session", open_with)
    return seen


@pytest.fixture(name="attention")
def write_attention(tmp_path: Path) -> Path:
    """A bundle of one attention in float32, with its form."""
    path = write_graphs(
        tmp_path / "attention", {"body": graph_of_text(ATTENTION, third=np.float32(0.3))}, {"float32": {}}
    )
    build(BuildOptions(path, BACKEND, precision="float32"))
    return path
