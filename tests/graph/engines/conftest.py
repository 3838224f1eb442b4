"""A bundle to build engines from, a double of the builder's process, and a Jetson."""

from pathlib import Path

import pytest

from fewstep.calibration.lowering.quantize import lower
from fewstep.calibration.lowering.targets.tensorrt import TENSORRT
from fewstep.graph.engines import build_engine
from fewstep.graph.engines.builders import EngineBuilder
from fewstep.runtime.backends import cuda
from tests.bundles import write_graphs
from tests.calibration.lowering.bodies.small_body import EDGES, body, prologue, table

COPY = "import sys, shutil; shutil.copy(sys.argv[3], sys.argv[2])"


@pytest.fixture
def bundle(tmp_path: Path) -> Path:
    """A bundle of the small body, calibrated for tensorrt with ranges of three groups."""
    prepared = body()
    lowered = lower(prepared, table(prepared, EDGES), TENSORRT)
    return write_graphs(
        tmp_path / "bundle",
        {"prologue": prologue(), "body": prepared, "int8-tensorrt": lowered.graph},
        {"float32": {}, "int8-tensorrt": {"graph": "int8-tensorrt", "groups": lowered.groups}},
        name="small",
    )


@pytest.fixture
def worker(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A double of the builder's process, whose "engine" is the request, or whatever a test writes here."""
    script = tmp_path / "worker.py"
    script.write_text(COPY)
    monkeypatch.setattr(build_engine, "WORKER", script)
    monkeypatch.setattr(EngineBuilder, "version", lambda self: "11.0")
    return script


@pytest.fixture
def jetson(monkeypatch: pytest.MonkeyPatch) -> None:
    """An AGX Orin."""
    monkeypatch.setattr(cuda, "describe", lambda device: ("sm87", 16))
