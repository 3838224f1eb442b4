"""OpenVINO behind the backend protocol: on the CPU, as it will run."""

import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pytest

import fewstep.runtime
from fewstep.cli.main import main
from fewstep.plans.errors import UserError
from fewstep.runtime.backends.named import named
from fewstep.runtime.backends.openvino import OpenVino
from fewstep.runtime.backends.recent import SIZES
from fewstep.runtime.bundle.reading import open_bundle
from fewstep.runtime.machine import cache
from tests.bundles import changed
from tests.runtime.backends.built import feeds

SAMPLES: dict[str, Any] = {"seeds": [0, 1, 2], "condition": {"class": [0, 1, 2]}, "guidance": 2.0}


@pytest.fixture(autouse=True)
def _installed() -> None:
    pytest.importorskip("openvino", reason="openvino is not installed")


def test_samples_are_those_of_onnxruntime(tiny_bundle: Path) -> None:
    expected = fewstep.runtime.load(tiny_bundle).sample("dpmpp_2m:8", **SAMPLES)
    with fewstep.runtime.load(tiny_bundle, backend=OpenVino()) as sampler:
        np.testing.assert_allclose(sampler.sample("dpmpp_2m:8", **SAMPLES), expected, atol=1e-5)


@pytest.mark.parametrize("contexts", [1, 2])
def test_threads_of_any_batch_compute_what_they_were_given(tiny_bundle: Path, contexts: int) -> None:
    """Batches beyond what stays compiled, too: an evicted one is compiled again."""
    network = OpenVino(contexts=contexts).load(open_bundle(tiny_bundle), "float32")
    jobs = [(float(i), 1 + i % (SIZES + 2)) for i in range(48)]
    with ThreadPoolExecutor(8) as pool:
        for (value, batch), made in zip(jobs, pool.map(lambda job: network(feeds(*job)), jobs), strict=True):
            np.testing.assert_array_equal(made["v"], np.full((batch, 1, 4, 4), value / 2 + 1, np.float32))


def test_the_command_line_compiles_a_body_for_its_own_batch_alone(
    tiny_bundle: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    shapes, compile_model = [], OpenVino.compile

    def counted(backend: OpenVino, core: Any, model: Any, file: str, given: Any = None) -> Any:
        shapes.append(given)
        return compile_model(backend, core, model, file, given)

    OpenVino().check(open_bundle(tiny_bundle))  # which is asked once on a machine, in calls of its own
    monkeypatch.setattr(OpenVino, "compile", counted)
    line = ["run", str(tiny_bundle), "--backend", "openvino", "-n", "2", "-c", "class=bag", "--guidance", "2"]
    assert main([*line, "--plan", "ddim:2", "-o", str(tmp_path / "samples.npy")]) == 0
    assert [each["x"] for each in shapes if each] == [[4, 1, 4, 4]]


def test_outputs_are_the_callers_to_keep(tiny_bundle: Path) -> None:
    network = OpenVino().load(open_bundle(tiny_bundle), "float32")
    first = network(feeds(2.0))["v"]
    network(feeds(4.0))
    assert (first == 2).all()


def test_a_missing_input_is_an_error_and_not_that_of_the_last_call(tiny_bundle: Path) -> None:
    network = OpenVino().load(open_bundle(tiny_bundle), "float32")
    network(feeds(2.0))
    with pytest.raises(UserError, match=r"other inputs than x \[2, 1, 4, 4\]; give row, x"):
        network({"x": feeds(2.0)["x"]})


AHEAD = {"time": np.full(3, 10.0, np.float32), "label": np.array([0, 1, 2])}


@pytest.mark.parametrize(
    ("graph", "wrong", "named"),
    [
        ("float32", {"x": np.zeros((2, 1, 3, 3), np.float32)}, r"inputs x \[2, 1, 3, 3\], .*: x takes \[2, 1, 4, 4\]"),
        ("float32", {"x": np.zeros((2, 1, 4, 4))}, r"x takes \[2, 1, 4, 4\] of float32; check their shapes and types"),
        ("prologue", {"time": np.full(3, 10.0)}, "failed on inputs .*: time takes float32; check their shapes"),
        ("prologue", {"label": np.array([0, 1, 2], np.int32)}, "failed on inputs .*: label takes int64; check their"),
    ],
)
def test_wrong_shapes_are_named_and_other_types_are_not_rounded(
    tiny_bundle: Path, graph: str, wrong: dict[str, np.ndarray], named: str
) -> None:
    network = OpenVino().load(open_bundle(tiny_bundle), graph)
    given = AHEAD if graph == "prologue" else feeds(1.0)
    network(given)
    with pytest.raises(UserError, match=named):
        network(given | wrong)


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
        ({"device": "TPU"}, r"no device 'TPU': .*; it has .*CPU"),
        ({"threads": -1}, r"-1 threads on \d+ cores"),
        ({"threads": 1.5}, "no whole number"),
        ({"contexts": 0}, "0 contexts run nothing"),
        ({"batch": 0}, "a batch of 0"),
        ({"float_type": "f8"}, "cannot compile graphs/body.onnx for CPU: .*f8"),
    ],
)
def test_settings_that_make_no_sense_are_one_line(tiny_bundle: Path, options: dict[str, Any], message: str) -> None:
    with pytest.raises(UserError, match=message):
        OpenVino(**options).load(open_bundle(tiny_bundle), "float32")


def test_a_graph_with_other_inputs_than_the_manifest_says_is_refused(tiny_bundle: Path) -> None:
    bundle = open_bundle(tiny_bundle)
    manifest = bundle.manifest
    body = manifest.bodies["float32"]
    fewer = msgspec.structs.replace(body, graphs=(msgspec.structs.replace(body.graph, inputs=body.graph.inputs[:1]),))
    changed(tiny_bundle, bodies={**manifest.bodies, "float32": fewer})
    with pytest.raises(UserError, match=r"has the inputs row float32\['batch', 1\], x .*, the manifest says x"):
        OpenVino().load(open_bundle(tiny_bundle), "float32")


def test_bf16_asks_for_a_body_of_its_own_and_is_asked_for_by_name(tiny_bundle: Path) -> None:
    backend = named("openvino-bf16", threads=1)
    assert backend == OpenVino(threads=1, float_type="bf16")
    assert backend.bodies == {"float32": ("float32",), "int8": ("int8-openvino-bf16",)}
    expected = fewstep.runtime.load(tiny_bundle).sample("dpmpp_2m:8", **SAMPLES)
    with fewstep.runtime.load(tiny_bundle, backend=backend) as sampler:
        np.testing.assert_allclose(sampler.sample("dpmpp_2m:8", **SAMPLES), expected, atol=0.1)


def test_int8_asks_for_its_own_body(tiny_bundle: Path) -> None:
    with pytest.raises(UserError, match="no int8-openvino body.*fewstep calibrate .* --target openvino"):
        fewstep.runtime.load(tiny_bundle, "int8", backend=OpenVino())


def test_without_openvino_loading_names_the_pip_command(tiny_bundle: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "openvino", None)
    with pytest.raises(UserError, match=r"openvino cannot be imported .*pip install 'fewstep\[openvino\]'"):
        OpenVino().load(open_bundle(tiny_bundle), "float32")


def test_naming_the_backend_imports_nothing_of_it() -> None:
    assert named("openvino", threads=1) == OpenVino(threads=1)
    code = "import sys; from fewstep.runtime.backends import named; named.named('openvino'); print(*sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert "fewstep.runtime.backends.openvino" in done.stdout.split() and "openvino" not in done.stdout.split()
