"""A network that OpenVINO computes differently from onnxruntime is refused, before any measurement and at the first
load.
"""

import shutil
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from msgspec import structs

from tests.calibration.test_calibrate import FIRST, denoiser, write_bundle

pytest.importorskip("openvino", reason="openvino is not installed")

from fewstep.calibration import calibrate as verb
from fewstep.calibration.calibrate import calibrate
from fewstep.graph.graph import Array, Graph, Node
from fewstep.graph.index import sort_topologically
from fewstep.measure.bodies import find_excluded_bodies, int8_bodies
from fewstep.measure.rollouts.metrics import psnr
from fewstep.plans.errors import UserError
from fewstep.report.options import ReportOptions
from fewstep.report.report import report
from fewstep.runtime.backends import openvino_agreement
from fewstep.runtime.backends.onnxruntime import OnnxRuntime
from fewstep.runtime.backends.openvino import OpenVino
from fewstep.runtime.bundle.reading import Bundle, open_bundle
from fewstep.runtime.sampling.loading import load
from tests.bundles import change_bundle
from tests.refusals import refuses

GIVEN = {"seeds": range(8), "condition": {"class": [0, 1] * 4}, "guidance": 2.0}
RESIZE = "Resize with antialias and exclude_outside"
WRONG = rf"OpenVINO \S+ computes graphs/body.onnx incorrectly, probably in {RESIZE}: it differs"


def behind_the_middle(made: str, nodes: tuple[Node, ...], constants: dict[str, Array]) -> Graph:
    """The denoiser of `test_calibrate` with `nodes`, which read "a1", before its last layer."""
    plain = denoiser()
    *head, tail = plain.nodes
    added = (*nodes, Node("Add", ("a1", made), ("joined",)), replace(tail, inputs=("joined", "w2")))
    every = {**plain.constants, **constants}
    return replace(plain, nodes=sort_topologically((*head, *added), ["x", "row", *every]), constants=every)


def with_fourier() -> Graph:
    """A filter over both axes of the pixels, as a layer of a Fourier neural operator."""
    rng = np.random.default_rng(2)
    constants = {
        "last": np.array([-1]),
        "rows": np.array(2),
        "columns": np.array(3),
        "filter": rng.uniform(0, 0.5, (1, 16, 8, 8, 1)).astype(np.float32),
        "zero": np.array(0),
    }
    nodes = (
        Node("Unsqueeze", ("a1", "last"), ("real",)),
        Node("DFT", ("real", "", "columns"), ("f1",), {"onesided": 0, "inverse": 0}),
        Node("DFT", ("f1", "", "rows"), ("f2",), {"onesided": 0, "inverse": 0}),
        Node("Mul", ("f2", "filter"), ("filtered",)),
        Node("DFT", ("filtered", "", "rows"), ("g1",), {"onesided": 0, "inverse": 1}),
        Node("DFT", ("g1", "", "columns"), ("g2",), {"onesided": 0, "inverse": 1}),
        Node("Gather", ("g2", "zero"), ("fourier",), {"axis": -1}),
    )
    return behind_the_middle("fourier", nodes, constants)


def with_resize() -> Graph:
    """Down and up again, bicubic and antialiased as torch writes it."""
    how = {"mode": b"cubic", "antialias": 1, "cubic_coeff_a": -0.5, "exclude_outside": 1}
    constants = {"half": np.array([1, 1, 0.5, 0.5], np.float32), "twice": np.array([1, 1, 2, 2], np.float32)}
    nodes = (Node("Resize", ("a1", "", "half"), ("small",), how), Node("Resize", ("small", "", "twice"), ("up",), how))
    return behind_the_middle("up", nodes, constants)


@pytest.fixture
def resizing(tmp_path: Path) -> Path:
    return write_bundle(tmp_path / "resizing", with_resize())


@pytest.fixture(scope="module")
def made_before(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A bundle with an int8-openvino body of an earlier version, made without a comparison. Tests must not change
    it.
    """
    folder = tmp_path_factory.mktemp("resizing")
    bundle = write_bundle(folder / "bundle", with_resize())
    with pytest.MonkeyPatch.context() as before:
        before.setenv("XDG_CACHE_HOME", str(folder / "cache"))
        before.setattr(openvino_agreement, "_measure_difference", lambda *_: 0.0)
        calibrate(replace(FIRST, bundle=bundle, target=("cpu-x86", "openvino")))
    return bundle


@pytest.fixture
def int8_bundle(made_before: Path, tmp_path: Path) -> Path:
    return shutil.copytree(made_before, tmp_path / "calibrated")


def never(*_: object) -> None:
    pytest.fail("it was asked for")


def test_a_denoiser_with_a_fourier_transform_runs_on_openvino_in_float_and_in_int8(tmp_path: Path) -> None:
    bundle = write_bundle(tmp_path / "bundle", with_fourier())
    made = calibrate(replace(FIRST, bundle=bundle, target=("openvino",)))
    assert made.lowered["int8-openvino"].coverage.int8_ops == ("h1",)
    expected = load(bundle).sample("ddim:3", **GIVEN)
    found = load(bundle, backend=OpenVino()).sample("ddim:3", **GIVEN)
    np.testing.assert_allclose(found, expected, atol=1e-5 * np.abs(expected).max())
    assert psnr(load(bundle, "int8", backend=OpenVino()).sample("ddim:3", **GIVEN), expected).mean() > 40


def test_what_it_computes_wrong_is_refused_before_anything_is_measured(
    resizing: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(verb, "count_activations", never)
    with pytest.raises(UserError, match=WRONG + ".*; run the bundle on onnxruntime") as failure:
        calibrate(replace(FIRST, bundle=resizing, target=("openvino",)))
    assert "\n" not in str(failure.value) and set(open_bundle(resizing).manifest.bodies) == {"float32"}


def test_one_that_it_cannot_compile_is_refused_as_early(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    bundle = write_bundle(tmp_path / "bundle", denoiser())

    def failing(*_: object) -> None:
        raise UserError("OpenVINO 1 cannot compile graphs/body.onnx for CPU: no", "run the bundle on onnxruntime")

    monkeypatch.setattr(OpenVino, "compile", failing)
    monkeypatch.setattr(verb, "count_activations", never)
    with pytest.raises(UserError, match="cannot compile graphs/body.onnx"):
        calibrate(replace(FIRST, bundle=bundle, target=("openvino",)))


def test_loading_refuses_it_too_the_int8_body_as_well(int8_bundle: Path) -> None:
    for precision in ("float32", "int8"):
        with pytest.raises(UserError, match=WRONG):
            load(int8_bundle, precision, backend=OpenVino())


def test_without_onnxruntime_operations_are_refused_by_name(
    int8_bundle: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    fourier = write_bundle(tmp_path / "fourier", with_fourier())
    monkeypatch.setitem(sys.modules, "onnxruntime", None)
    for precision in ("float32", "int8"):
        with pytest.raises(UserError, match=f"body.onnx has {RESIZE}, which"):
            load(int8_bundle, precision, backend=OpenVino())
    assert np.isfinite(load(fourier, backend=OpenVino()).sample("ddim:2", **GIVEN)).all()


def test_a_graph_is_compared_once_on_a_machine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    bundle = write_bundle(tmp_path / "bundle", with_fourier())
    load(bundle, backend=OpenVino())
    with monkeypatch.context() as patched:
        patched.setattr(OnnxRuntime, "load_graph", never)
        load(bundle, backend=OpenVino(threads=1, batch=2))
    asked: list[str] = []
    real = OnnxRuntime.load_graph
    monkeypatch.setattr(OnnxRuntime, "load_graph", lambda *given: asked.append(given[2].file) or real(*given))
    monkeypatch.setattr("fewstep.runtime.backends.openvino.version", lambda: "another")
    load(bundle, backend=OpenVino())
    assert asked == ["graphs/body.onnx", "graphs/prologue.onnx"]


@pytest.mark.parametrize("found", [0.01, float("inf"), float("nan")])
def test_an_operation_that_nobody_suspects_is_refused_all_the_same(
    found: float, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    bundle = write_bundle(tmp_path / "bundle", denoiser())
    monkeypatch.setattr(openvino_agreement, "_measure_difference", lambda *_: found)
    with pytest.raises(
        UserError, match=f"computes graphs/body.onnx incorrectly: it differs from onnxruntime by {found:.2g} of"
    ):
        load(bundle, backend=OpenVino())


def test_a_network_that_is_wrong_in_one_call_only_is_none(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Such as a network that routes by an argmax, where two values are nearly equal. For a backend in bfloat16,
    float32 is compared.
    """
    bundle = open_bundle(write_bundle(tmp_path / "bundle", denoiser()))
    backend, calls = OpenVino(), iter([1.0, 0.0, 0.0, 0.0])
    network = backend.open(bundle, "float32")

    def flipping(feeds: dict[str, Array]) -> dict[str, Array]:
        return {name: value + next(calls) for name, value in network(feeds).items()}

    def nothing(feeds: dict[str, Array]) -> dict[str, Array]:
        return {"v": np.full((1, 1, 8, 8), np.nan)}

    def check(network: Any) -> None:
        openvino_agreement.check(OpenVino(cached=False), bundle, "float32", lambda name: network)

    check(flipping)
    with pytest.raises(UserError, match="differs from onnxruntime by inf"):
        check(nothing)
    real = OpenVino.open
    monkeypatch.setattr(OpenVino, "open", lambda self, *_: nothing if self.float_type == "bf16" else real(self, *_))
    OpenVino(float_type="bf16").load(bundle, "float32")


@pytest.mark.slow
def test_the_report_does_not_blame_int8_for_it(int8_bundle: Path) -> None:
    few = {"seeds": 4, "forced_seeds": 2, "teacher_seeds": 1, "simulated_seeds": 2, "batches": (1,), "rounds": 1}
    measured = report(ReportOptions(int8_bundle, teacher="ddim:4", turn_seconds=0.01, **few))  # type: ignore[arg-type]
    assert (
        [quality.body for quality in measured.qualities]
        == ["int8-cpu-x86"]
        == list(int8_bodies(open_bundle(int8_bundle)))
    )
    (said,) = (note for note in measured.notes if note.startswith("Not judged: int8-openvino, because OpenVINO "))
    assert "computes graphs/body.onnx incorrectly, probably in Resize" in said
    assert said.replace("'", "&#x27;") in (int8_bundle / "report" / "index.html").read_text()


def test_a_bundle_of_nothing_else_says_why_it_cannot_be_judged(int8_bundle: Path) -> None:
    manifest = open_bundle(int8_bundle).manifest
    assert list(find_excluded_bodies(open_bundle(int8_bundle))) == ["int8-openvino"]
    bodies = {name: body for name, body in manifest.bodies.items() if name != "int8-cpu-x86"}
    change_bundle(int8_bundle, bodies=bodies)
    with pytest.raises(UserError, match="incorrectly, probably in Resize"):
        int8_bodies(open_bundle(int8_bundle))


def test_a_graph_with_integer_weights_may_differ_more(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Engines round the inputs of its products in different ways."""
    bundle = open_bundle(write_bundle(tmp_path / "bundle", denoiser()))
    file = bundle.graph(openvino_agreement.find_graph(bundle, "float32"))
    monkeypatch.setattr(openvino_agreement, "_measure_difference", lambda *_: 0.04)
    with refuses("differs from onnxruntime by 0.04"):
        openvino_agreement.check(OpenVino(cached=False), bundle, "float32", never)  # type: ignore[arg-type]
    monkeypatch.setattr(openvino_agreement, "INTEGER_WEIGHTS", (file.read_bytes()[8:40],))  # as if it had such weights
    openvino_agreement.check(OpenVino(cached=False), bundle, "float32", never)  # type: ignore[arg-type]
    monkeypatch.setattr(openvino_agreement, "_measure_difference", lambda *_: 0.06)
    with refuses("differs from onnxruntime by 0.06"):
        openvino_agreement.check(OpenVino(cached=False), bundle, "float32", never)  # type: ignore[arg-type]


@pytest.fixture
def large(int8_bundle: Path, monkeypatch: pytest.MonkeyPatch) -> Bundle:
    """The calibrated bundle, as if the weights of its float body were in files."""
    find = openvino_agreement.find_graph
    monkeypatch.setattr(
        openvino_agreement, "find_graph", lambda *given: structs.replace(find(*given), data=("graphs/weights.data",))
    )
    monkeypatch.setattr(Bundle, "graph", lambda self, entry: self.path / entry.file)
    monkeypatch.setattr(openvino_agreement, "_measure_difference", never)
    return open_bundle(int8_bundle)


def test_a_large_float_body_is_not_compiled_for_a_load_of_its_int8_body(
    large: Bundle, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(openvino_agreement, "find_wrong_operations", lambda file: "")
    openvino_agreement.check(OpenVino(), large, "int8-openvino", never)  # type: ignore[arg-type]


def test_an_operation_of_a_large_body_that_is_known_to_be_wrong_is_refused(large: Bundle) -> None:
    with refuses("Resize", "run the bundle on onnx"):
        openvino_agreement.check(OpenVino(), large, "int8-openvino", never)  # type: ignore[arg-type]
