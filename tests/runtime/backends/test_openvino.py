"""OpenVINO on the CPU under the backend protocol."""

import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import fewstep.runtime
from fewstep.cli.main import main
from fewstep.plans.errors import UserError
from fewstep.runtime.backends import openvino
from fewstep.runtime.backends.openvino import OpenVino
from fewstep.runtime.backends.registry import create_backend
from fewstep.runtime.bundle.reading import open_bundle
from fewstep.runtime.machine import cache
from tests.cli.conftest import as_in_a_terminal
from tests.refusals import refuses
from tests.runtime.backends.add_engines import feeds

SAMPLES: dict[str, Any] = {"seeds": [0, 1, 2], "condition": {"class": [0, 1, 2]}, "guidance": 2.0}


@pytest.fixture(autouse=True)
def _require_openvino() -> None:
    pytest.importorskip("openvino", reason="openvino is not installed")


def test_the_command_line_compiles_a_body_for_its_own_batch_alone(
    tiny_bundle: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    shapes, compile_model = [], OpenVino.compile

    def count_compilation(backend: OpenVino, core: Any, model: Any, file: str, given: Any = None) -> Any:
        shapes.append(given)
        return compile_model(backend, core, model, file, given)

    OpenVino().check(open_bundle(tiny_bundle))  # which is asked once on a machine, in calls of its own
    monkeypatch.setattr(OpenVino, "compile", count_compilation)
    line = ["run", str(tiny_bundle), "--backend", "openvino", "-n", "2", "-c", "class=bag", "--guidance", "2"]
    assert main([*line, "--plan", "ddim:2", "-o", str(tmp_path / "samples.npy")]) == 0
    assert [shape["x"] for shape in shapes if shape] == [[4, 1, 4, 4]]


def test_what_was_compiled_is_kept_for_the_next_time(tiny_bundle: Path) -> None:
    OpenVino(cached=False).load(open_bundle(tiny_bundle), "float32")
    assert not cache.path("openvino", "").exists()
    OpenVino().load(open_bundle(tiny_bundle), "float32")
    (blob,) = cache.path("openvino", "").iterdir()
    blob.chmod(0o600)
    blob.write_bytes(blob.read_bytes()[:100])  # damaged: compiled again
    network = OpenVino().load(open_bundle(tiny_bundle), "float32")
    assert (network(feeds(2.0))["v"] == 2).all()


def test_a_cache_folder_that_cannot_be_made_costs_only_time(
    tiny_bundle: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "file").write_text("in the way")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "file"))
    assert (OpenVino().load(open_bundle(tiny_bundle), "float32")(feeds(2.0))["v"] == 2).all()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"device": "TPU"}, r"no device 'TPU': .*; choose one of .*CPU"),
        ({"threads": -1}, r"-1 threads on \d+ cores"),
        ({"threads": 1.5}, "not a whole number"),
        ({"contexts": 0}, "contexts 0; give a whole number from 1 up"),
        ({"batch": 0}, "batch 0; give a whole number from 1 up"),
        ({"float_type": "f8"}, "cannot compile graphs/body.onnx for CPU: .*f8"),
    ],
)
def test_settings_that_make_no_sense_are_one_line(tiny_bundle: Path, options: dict[str, Any], message: str) -> None:
    with pytest.raises(UserError, match=message):
        OpenVino(**options).load(open_bundle(tiny_bundle), "float32")


def test_bf16_asks_for_a_body_of_its_own_and_is_asked_for_by_name(tiny_bundle: Path) -> None:
    backend = create_backend("openvino-bf16", threads=1)
    assert backend == OpenVino(threads=1, float_type="bf16")
    only_weights = {"int8-weights": ("int8-weights",), "int4-weights": ("int4-weights",)}
    assert backend.bodies == {"float32": ("float32",), "int8": ("int8-openvino-bf16",), **only_weights}
    expected = fewstep.runtime.load(tiny_bundle).sample("dpmpp_2m:8", **SAMPLES)
    with fewstep.runtime.load(tiny_bundle, backend=backend) as sampler:
        np.testing.assert_allclose(sampler.sample("dpmpp_2m:8", **SAMPLES), expected, atol=0.1)


def test_int8_asks_for_its_own_body(tiny_bundle: Path) -> None:
    with refuses("int8-openvino", "--target openvino"):
        fewstep.runtime.load(tiny_bundle, "int8", backend=OpenVino())


def test_naming_the_backend_imports_nothing_of_it() -> None:
    assert create_backend("openvino", threads=1) == OpenVino(threads=1)
    code = (
        "import sys; from fewstep.runtime.backends import registry; registry.create_backend('openvino'); "
        "print(*sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert "fewstep.runtime.backends.openvino" in done.stdout.split() and "openvino" not in done.stdout.split()


def test_an_interrupt_after_openvino_is_an_interrupt() -> None:
    """OpenVINO's last Core, freed in another thread, takes the stack of the main thread's signal handlers with it."""
    code = """
import gc, signal, threading
from fewstep.runtime.backends import openvino
from fewstep.runtime.backends.openvino import OpenVino
cores = [OpenVino().core()]
thread = threading.Thread(target=lambda: (cores.clear(), gc.collect()))
thread.start(); thread.join()
try: signal.raise_signal(signal.SIGINT)
except KeyboardInterrupt: print("interrupted")
"""
    command = [sys.executable, "-c", code]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, preexec_fn=as_in_a_terminal)
    assert (done.returncode, done.stdout) == (0, "interrupted\n")


def test_a_quota_limits_the_threads(monkeypatch: pytest.MonkeyPatch) -> None:
    """OpenVINO itself does not read it."""
    monkeypatch.setattr(openvino, "cpu_quota", lambda: None)
    assert "INFERENCE_NUM_THREADS" not in OpenVino(cached=False).settings()
    monkeypatch.setattr(openvino, "cpu_quota", lambda: 0.5)
    monkeypatch.setattr(openvino, "default_threads", lambda: 1)
    assert OpenVino(cached=False).settings()["INFERENCE_NUM_THREADS"] == 1
    assert OpenVino(threads=1, cached=False).settings()["INFERENCE_NUM_THREADS"] == 1
