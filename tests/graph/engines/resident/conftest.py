"""The doubles of GPUs and TensorRT, with a builder that makes the double's engines."""

import json
from pathlib import Path

import onnx
import pytest

from fewstep.graph.engines import built
from tests.runtime.backends.conftest import cuda as cuda
from tests.runtime.backends.conftest import tensorrt as tensorrt
from tests.runtime.backends.conftest import tensorrt_rtx as tensorrt_rtx
from tests.runtime.backends.tensorrt_double import engine

VERSIONS = {"tensorrt": "10.3.0", "tensorrt-rtx": "1.7.1.116"}


@pytest.fixture
def builds(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """What the builder was asked for, one name a graph."""
    asked: list[str] = []

    def build(files: list[str], what: str, timeout: float, backend: str, other: str, longer: str) -> None:
        assert other == longer == built.OTHER  # no option of another verb
        graph = Path(files[0]).read_bytes()
        shapes = [port.type.tensor_type.shape.dim for port in onnx.load_from_string(graph).graph.input]
        assert all(size.HasField("dim_value") for shape in shapes for size in shape)
        asked.append(what)
        measured = json.loads(Path(files[2]).read_text())["timing_cache"]
        assert (measured is not None) == (backend == "tensorrt")  # TensorRT-RTX measures on the device, when it loads
        if measured is not None:
            before = Path(measured).read_bytes() if Path(measured).exists() else b""
            Path(measured).write_bytes(before + b"measured ")
        Path(files[1]).write_bytes(engine(graph, VERSIONS[backend], (1, 1, 1)))

    monkeypatch.setattr(built, "run_worker", build)
    return asked
