"""Hexagon under the backend protocol, in its arithmetic on this CPU. Tests that need the library are skipped without
it.
"""

import importlib.util
import shutil
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import msgspec
import numpy as np
import pytest

from fewstep.calibration.calibrate import calibrate
from fewstep.calibration.lowering.quantize import lower
from fewstep.calibration.lowering.targets.qnn import QNN
from fewstep.cli.main import main
from fewstep.graph.engines.build import build
from fewstep.graph.engines.build_options import BuildOptions
from fewstep.graph.files.io import save
from fewstep.graph.graph import BATCH, Graph, Node, Value
from fewstep.graph.session import open_session
from fewstep.measure.measure import measure
from fewstep.measure.options import MeasureOptions
from fewstep.plans.errors import UserError
from fewstep.report.engines.compare_engines import compare_engines
from fewstep.report.engines.differences import EngineComparison
from fewstep.runtime.backends import qnn
from fewstep.runtime.backends.qnn import PROVIDER, Qnn, find_device
from fewstep.runtime.backends.registry import NAMED, create_backend
from fewstep.runtime.backends.shape_cache import SIZES, ShapeCache
from fewstep.runtime.bundle.reading import open_bundle
from fewstep.runtime.machine import cache
from fewstep.runtime.sampling.loading import load
from tests.calibration.lowering.bodies.small_body import feeds, sqnr, table
from tests.calibration.test_calibrate import FIRST, denoiser, write_bundle
from tests.refusals import refuses

needs_library = pytest.mark.skipif(
    importlib.util.find_spec("onnxruntime_qnn") is None, reason="onnxruntime-qnn is not installed"
)
SAMPLES = {"seeds": [0, 1], "condition": {"class": [0, 1]}}


@pytest.fixture(scope="module")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = write_bundle(tmp_path_factory.mktemp("qnn") / "bundle", denoiser())
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(cache, "folder", lambda: path.parent / "cache")
        calibrate(replace(FIRST, bundle=path, target=("qnn",)))
    return path


def test_a_chip_that_is_not_known_is_one_line() -> None:
    with refuses("'sm1'", ("sm8550", "sc8380xp")):
        Qnn("sm1")


def test_a_body_with_floats_is_refused(bundle: Path) -> None:
    with refuses("'float32'", ("--target qnn", "--precision int8")):
        load(bundle, body="float32", backend=Qnn())


def test_without_the_library_it_says_how_to_get_it(bundle: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "onnxruntime_qnn", None)
    qnn._register_provider.cache_clear()
    with refuses("onnxruntime-qnn", "fewstep[qnn]"):
        load(bundle, body="int8-qnn", backend=Qnn())


def test_threads_register_the_library_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """onnxruntime reports a second registration as an error."""
    registered: list[str] = []

    class Onnxruntime:
        OrtHardwareDeviceType = SimpleNamespace(NPU="npu")

        def register_execution_provider_library(self, name: str, path: str) -> None:
            time.sleep(0.02)
            registered.append(path)

        def get_ep_devices(self) -> list[object]:
            return [SimpleNamespace(ep_name=PROVIDER, device=SimpleNamespace(type="cpu"))]

    monkeypatch.setattr(qnn, "import_qnn", lambda: SimpleNamespace(get_library_path=lambda: "library"))
    fake = Onnxruntime()
    with ThreadPoolExecutor(4) as threads:
        devices = list(threads.map(find_device, [fake] * 4))
    assert registered == ["library"] and [is_npu for _, is_npu in devices] == [False] * 4


@needs_library
def test_samples_are_those_of_onnx_arithmetic(bundle: Path) -> None:
    assert create_backend("qnn") == Qnn() and Qnn().is_emulated()
    expected = load(bundle, body="int8-qnn").sample("ddim:3", **SAMPLES)
    with load(bundle, "int8", backend=Qnn()) as sampler:
        assert sampler.body.target == "qnn"
        assert sqnr(expected, sampler.sample("ddim:3", **SAMPLES)) > 55


@needs_library
def test_a_body_of_eight_bits_is_near_onnx_arithmetic(tmp_path: Path) -> None:
    bundle = write_bundle(tmp_path / "bundle", denoiser())
    calibrate(replace(FIRST, bundle=bundle, target=("qnn-8bit",)))
    expected = load(bundle, body="int8-qnn-8bit").sample("ddim:3", **SAMPLES)
    with load(bundle, "int8", backend=Qnn()) as sampler:
        assert sampler.body.target == "qnn-8bit"
        samples = sampler.sample("ddim:3", **SAMPLES)
    assert sqnr(expected, samples) > 30
    (built,) = build(BuildOptions(bundle, backend="qnn", device=("sm8650",), opt_batch="2")).built
    assert built.body == "int8-qnn-8bit"
    with load(bundle, "int8", backend=Qnn("sm8650")) as sampler:
        np.testing.assert_array_equal(sampler.sample("ddim:3", **SAMPLES), samples)


@needs_library
def test_a_body_is_compiled_for_each_batch_and_few_are_kept(bundle: Path) -> None:
    network = Qnn().load(open_bundle(bundle), "int8-qnn")
    assert isinstance(network, ShapeCache)
    row = np.ones((1, 1, 1, 1), np.float32)
    for batch in range(1, SIZES + 2):
        x = np.zeros((batch, 1, 8, 8), np.float32)
        assert network({"x": x, "row": row.repeat(batch, 0)})["v"].shape == x.shape
    assert len(network.opened) == SIZES
    with pytest.raises(UserError, match="was called with the inputs x"):
        network({"x": np.zeros((2, 1, 8, 8), np.float32)})


@needs_library
def test_a_tall_silu_is_computed_right(tmp_path: Path) -> None:
    """Without the second pair, HTP is 1 dB from ONNX's arithmetic."""
    f32, weight = np.dtype(np.float32), np.eye(32, dtype=np.float32).reshape(32, 32, 1, 1)
    nodes = (
        Node("Conv", ("x", "w"), ("a",)),
        Node("Add", ("a", "x"), ("t",)),
        Node("Sigmoid", ("t",), ("gate",)),
        Node("Mul", ("t", "gate"), ("silu",)),
        Node("Conv", ("silu", "w"), ("y",)),
    )
    x, y = (Value(name, f32, (BATCH, 32, 7, 7)) for name in "xy")
    graph = Graph("silu", (x,), (y,), nodes, {"w": weight})
    lowered = lower(graph, table(graph), QNN).graph
    save(lowered, tmp_path / "silu.onnx")
    found = Qnn().open("silu", str(tmp_path / "silu.onnx"), {"batch": 1})(feeds(graph, 1))["y"]
    assert sqnr(open_session(lowered, fuse_qdq=False)(feeds(graph, 1))["y"], found) > 60


@needs_library
def test_a_context_binary_is_built_in_advance_and_loaded_for_its_chip_only(
    bundle: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(cache, "folder", lambda: tmp_path / "cache")
    bundle = Path(shutil.copytree(bundle, tmp_path / "bundle"))
    options = BuildOptions(bundle, backend="qnn", device=("sm8650", "sc8380xp"), opt_batch="2")
    made = build(options)
    assert [(each.body, each.device) for each in made.built] == [("int8-qnn", "sm8650"), ("int8-qnn", "sc8380xp")]
    assert len(build(options).kept) == 2
    opened = open_bundle(bundle)
    network = Qnn("sm8650").load(opened, "int8-qnn")
    assert list(network.opened) == [(2,)]
    assert not Qnn("sm8750").load(opened, "int8-qnn").opened  # it has none, and compiles when it is called
    fed = {"x": np.full((2, 1, 8, 8), 0.5, np.float32), "row": np.ones((2, 1, 1, 1), np.float32)}
    expected = Qnn("sm8750").load(opened, "int8-qnn")(fed)["v"]
    np.testing.assert_array_equal(network(fed)["v"], expected)
    monkeypatch.setattr(qnn, "version", lambda: "2.6.0")
    with refuses(("backend_version", "2.6.0"), "fewstep build"):
        Qnn("sm8650").load(opened, "int8-qnn")
    monkeypatch.undo()
    monkeypatch.setattr(cache, "folder", lambda: tmp_path / "another")
    with pytest.raises(UserError, match="was not built on this machine, and an engine is native code"):
        Qnn("sm8650").load(opened, "int8-qnn")
    assert Qnn("sm8650", trust_engines=True).load(opened, "int8-qnn")(fed)["v"].shape == (2, 1, 8, 8)
    (engine,) = [each for each in opened.manifest.engines if each.device == "sm8650"]
    content = bytearray((bundle / engine.file).read_bytes())
    content[len(content) // 2] ^= 1
    (bundle / engine.file).write_bytes(content)
    with pytest.raises(UserError, match=msgspec.json.encode(engine.file).decode().strip('"').replace(".", r"\.")):
        Qnn("sm8650", trust_engines=True).load(open_bundle(bundle), "int8-qnn")


@needs_library
def test_verify_compares_a_true_step_and_bench_says_that_times_mean_nothing(
    bundle: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    kept = {name: made for name, made in NAMED.items() if name in ("onnxruntime", "qnn")}
    monkeypatch.setattr("fewstep.report.engines.compare_engines.NAMED", kept)
    (compared,) = compare_engines(open_bundle(bundle))
    assert isinstance(compared, EngineComparison) and compared.agrees and 0 < compared.difference < compared.limit
    assert main(["verify", str(bundle), "--engines"]) == 0
    assert "at most 0.001 of the output's standard deviation" in capsys.readouterr().out
    few = {"batches": (1,), "rounds": 1, "turn_seconds": 0.01}
    made = measure(MeasureOptions(bundle, ("ms",), backend=("qnn",), **few))  # type: ignore[arg-type]
    assert "qnn: this CPU emulates an NPU, so the time says nothing about a real one" in made.notes
