"""A graph's probe tells an engine that computes it correctly from one that does not."""

from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pytest

from fewstep.cli.main import main
from fewstep.plans.errors import UserError
from fewstep.report.integrity import VerifyOptions, verify
from fewstep.runtime.backends import onnxruntime, probe
from fewstep.runtime.backends.onnxruntime import OnnxRuntime, Session
from fewstep.runtime.backends.probe import LARGEST, measure_probe, probe_difference, probe_feeds
from fewstep.runtime.bundle.manifest import GraphEntry, TensorEntry
from fewstep.runtime.bundle.reading import open_bundle
from fewstep.runtime.sampling.loading import load
from tests.bundles import change_bundle
from tests.described_cpu import describe_cpu

SHAPE = ("batch", 3, "height", 8)
ENTRY = GraphEntry(
    "g.onnx",
    (TensorEntry("x", "x", SHAPE), TensorEntry("time", "time", ("batch",)), TensorEntry("c", "condition", (), "int64")),
    (TensorEntry("output", "output", SHAPE), TensorEntry("row", "row", (4,))),
)
SIZES = {"height": 8}


def network(feeds: Any, change: Any = 0.0) -> dict[str, Any]:
    x = feeds["x"]
    return {"output": np.tanh(x) + feeds["time"][:, None, None, None] + change, "row": x[0, 0, 0, :4] * 100}


def difference(change: Any, **settings: Any) -> float:
    entry = msgspec.structs.replace(ENTRY, probe=measure_probe(ENTRY, network, SIZES))
    return probe_difference(entry, measure_probe(ENTRY, lambda feeds: network(feeds, change), SIZES, **settings))


def test_the_same_engine_has_no_difference() -> None:
    assert difference(0.0) == 0


def test_the_number_of_rows_does_not_change_a_probe() -> None:
    assert difference(0.0, batch=3) == 0


def test_rounding_agrees() -> None:
    rounding = np.random.default_rng(0).uniform(-1e-5, 1e-5, (1, 3, 8, 8))
    assert 0 < difference(rounding) < LARGEST


@pytest.mark.parametrize("place", [(0, 0, 0, 0), (0, 2, 7, 7), (0, 1, slice(None), 7)])
def test_an_error_of_a_few_values_differs(place: Any) -> None:
    change = np.zeros((1, 3, 8, 8))
    change[place] = 0.01
    assert difference(change) > LARGEST


@pytest.mark.parametrize("change", [np.nan, np.inf])
def test_values_that_are_not_finite_differ(change: float) -> None:
    assert difference(change) == np.inf


def test_an_error_in_one_of_two_calls_agrees() -> None:
    """Such as that of a network that routes by an argmax, where two values are nearly equal."""
    calls = iter([1.0, 0.0, 1.0, 1.0])
    entry = msgspec.structs.replace(ENTRY, probe=measure_probe(ENTRY, network, SIZES))

    def flips(feeds: Any) -> dict[str, Any]:
        return network(feeds, next(calls))

    assert probe_difference(entry, measure_probe(ENTRY, flips, SIZES)) == 0
    assert probe_difference(entry, measure_probe(ENTRY, flips, SIZES)) > 0.1


@pytest.mark.parametrize("stored", [((1.0,),) * 2, ((1.0,) * 10,), ((1.0,) * 10,) * 3, ((),) * 2])
def test_numbers_of_another_form_differ(stored: Any) -> None:
    """Such as those of a hostile manifest."""
    entry = msgspec.structs.replace(ENTRY, probe=stored)
    assert probe_difference(entry, measure_probe(ENTRY, network, SIZES)) == np.inf


def test_inputs_are_the_same_on_every_machine() -> None:
    feeds = probe_feeds(ENTRY, {"batch": 1, **SIZES}, 0)
    assert [value.dtype for value in feeds.values()] == [np.float32, np.float32, np.int64]
    uniform = np.array([0.63696169, 0.26978671, 0.04097352])  # the first numbers of numpy's PCG64(0)
    np.testing.assert_allclose(feeds["x"][0, 0, 0, :3], (2 * uniform - 1) * np.sqrt(3), atol=1e-6)
    assert 0 <= feeds["time"][0] < 1 and feeds["c"] == 0
    assert abs(feeds["x"].std() - 1) < 0.1 and abs(feeds["x"].mean()) < 0.2


@pytest.fixture
def probed(tiny_bundle: Path) -> Path:
    """The tiny bundle, whose float32 body has a probe."""
    bundle = open_bundle(tiny_bundle)
    body = bundle.manifest.bodies["float32"]
    of_body = measure_probe(body.graph, OnnxRuntime().load_graph(bundle, body.graph), {})
    graphs = (msgspec.structs.replace(body.graph, probe=of_body),)
    bodies = {**bundle.manifest.bodies, "float32": msgspec.structs.replace(body, graphs=graphs)}
    return change_bundle(tiny_bundle, bodies=bodies)


def compute_wrong(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let onnxruntime return outputs that are 1 % too large."""
    right = Session.__call__
    monkeypatch.setattr(
        Session, "__call__", lambda *given: {name: value * 1.01 for name, value in right(*given).items()}
    )


def test_an_engine_that_computes_wrong_numbers_is_refused(probed: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    compute_wrong(monkeypatch)
    wrong = r"onnxruntime \S+ computes graphs/body.onnx incorrectly on this machine: it differs .* by 0\.01 of"
    with pytest.raises(UserError, match=wrong) as failure:
        load(probed)
    assert "pip install --upgrade onnxruntime, or choose another backend" in failure.value.fix


def test_a_graph_is_run_once_per_machine_and_version(probed: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    measured = list[str]()
    measure = probe.measure_probe
    monkeypatch.setattr(probe, "measure_probe", lambda *given: measured.append(given[0].file) or measure(*given))
    load(probed)
    load(probed)
    assert measured == ["graphs/body.onnx"]
    monkeypatch.setattr(onnxruntime, "version", lambda: "1.99.0")
    load(probed)
    assert measured == ["graphs/body.onnx"] * 2


def test_a_bundle_without_probes_opens(tiny_bundle: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    compute_wrong(monkeypatch)
    load(tiny_bundle)


def test_verify_compares_it_at_every_call(probed: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    load(probed)
    assert verify(VerifyOptions(probed)).is_whole
    compute_wrong(monkeypatch)
    (fault,) = verify(VerifyOptions(probed)).incorrect
    assert "computes graphs/body.onnx incorrectly" in fault.what and "--upgrade onnxruntime" in fault.fix
    assert not verify(VerifyOptions(probed, graphs=False)).incorrect


def test_a_bundle_that_the_engine_computes_incorrectly_is_not_damaged(
    probed: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    compute_wrong(monkeypatch)
    assert main(["verify", str(probed), "--engines"]) == 1
    *lines, last = capsys.readouterr().out.splitlines()
    assert "intact, but onnxruntime computes 1 graph incorrectly here" in last
    assert sum("pip install --upgrade onnxruntime" in line for line in lines) == 1
    assert any("engines were not compared, because onnxruntime" in line for line in lines)


@pytest.mark.parametrize(
    ("version", "instructions", "is_refused"),
    [
        ("1.24.1", ("avx2", "avx512_vnni", "amx_int8"), True),
        ("1.25.0", ("avx2", "avx512_vnni", "amx_int8"), False),
        ("1.24.1", ("avx2", "avx512_vnni"), False),
    ],
)
def test_int8_is_refused_where_onnxruntime_multiplies_incorrectly(
    tiny_bundle: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    version: str,
    instructions: tuple[str, ...],
    is_refused: bool,
) -> None:
    describe_cpu(monkeypatch, tmp_path, instructions)
    monkeypatch.setattr(onnxruntime, "version", lambda: version)
    load(tiny_bundle)
    if is_refused:
        with pytest.raises(UserError, match=r"onnxruntime 1.24.1 computes int8 products incorrectly on CPUs with AMX"):
            load(tiny_bundle, "int8")
    else:
        load(tiny_bundle, "int8")
