"""A report runs and times an int8-openvino body on OpenVINO where that is installed, and simulates it elsewhere."""

import sys
from collections.abc import Iterator
from pathlib import Path

import msgspec
import numpy as np
import pytest

from fewstep.cli.verbs.report import dry_run
from fewstep.graph.commit import open_for_update
from fewstep.measure import bodies
from fewstep.measure.bodies import SIMULATION, engine_of, int8_bodies, require
from fewstep.measure.measure import MeasureOptions, open_task
from fewstep.measure.results import Results
from fewstep.report.options import ReportOptions
from fewstep.report.write import report
from fewstep.runtime.backends.openvino import OpenVino
from fewstep.runtime.bundle.reading import open_bundle
from tests.report.judged_bundle import ERROR, make_bundle

BODY = "int8-openvino"


@pytest.fixture
def bundle(tmp_path: Path) -> Path:
    """One with an int8-openvino body too; the bodies for other targets are as they were."""
    path: Path = make_bundle(tmp_path / "tiny")
    with open_for_update(path, must_exist=True) as writer:
        bodies = writer.manifest.bodies
        own = msgspec.structs.replace(bodies["int8-tensorrt"], target="openvino")
        writer.commit(msgspec.structs.replace(writer.manifest, bodies={BODY: own, **bodies}))
    return path


def options(bundle: Path) -> ReportOptions:
    few = {"seeds": 6, "forced_seeds": 4, "teacher_seeds": 1, "simulated_seeds": 3, "batches": (1,), "rounds": 1}
    return ReportOptions(bundle, teacher="dpmpp_2m:6", turn_seconds=0.01, **few)  # type: ignore[arg-type]


def judged(bundle: Path) -> tuple[Results, str]:
    measured = report(options(bundle))
    return measured, (bundle / "report" / "index.html").read_text()


def test_openvino_runs_its_body_on_all_seeds_and_is_timed(bundle: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("openvino", reason="openvino is not installed")
    loaded: list[str] = []
    load = OpenVino.load
    monkeypatch.setattr(OpenVino, "load", lambda *given: loaded.append(given[2]) or load(*given))
    measured, text = judged(bundle)
    assert BODY in loaded and "float32" not in loaded
    assert [(each.body, each.engine) for each in measured.qualities] == [
        ("int8-cpu-x86", "onnxruntime"),
        (BODY, "OpenVINO"),
        ("int8-tensorrt", SIMULATION),
    ]
    own = measured.qualities[1]
    assert (own.against_float.seeds, own.forced_seeds) == (6, 4)
    assert [step.forced for step in own.steps] == pytest.approx([-20 * np.log10(ERROR)] * 4, abs=0.1)
    (race,) = measured.races
    assert [timing.name for timing in race.timings] == ["float32", "int8-cpu-x86", BODY]
    assert race.timings[2].median > 0 and race.timings[2].ratio > 0
    assert f"<td>{BODY}</td><td>OpenVINO</td>" in text and f"onnxruntime, {BODY} on OpenVINO; shorter" in text
    told = dry_run(options(bundle)).value
    assert told["seeds"] == {"int8-cpu-x86": 6, BODY: 6, "int8-tensorrt": 3}


def test_measure_takes_it_by_default(bundle: Path) -> None:
    pytest.importorskip("openvino", reason="openvino is not installed")
    assert list(open_task(MeasureOptions(bundle, ("psnr",))).judged.task.bodies) == ["int8-cpu-x86", BODY]


def test_a_bundle_for_openvino_alone_is_raced_too(bundle: Path) -> None:
    pytest.importorskip("openvino", reason="openvino is not installed")
    with open_for_update(bundle, must_exist=True) as writer:
        bodies = {name: body for name, body in writer.manifest.bodies.items() if name in ("float32", BODY)}
        writer.commit(msgspec.structs.replace(writer.manifest, bodies=bodies))
    measured, text = judged(bundle)
    assert [timing.name for timing in measured.races[0].timings] == ["float32", BODY]
    assert "threads, OpenVINO against onnxruntime" in text  # of the headline


@pytest.fixture
def no_openvino(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """As if it were not installed."""
    monkeypatch.setitem(sys.modules, "openvino", None)
    bodies._is_installed.cache_clear()
    yield
    bodies._is_installed.cache_clear()


def test_whether_openvino_is_installed_is_tried_once(no_openvino: None, monkeypatch: pytest.MonkeyPatch) -> None:
    tried: list[str] = []

    def counted(backend: str) -> None:
        tried.append(backend)
        require(backend)

    monkeypatch.setattr(bodies, "require", counted)
    assert [bodies._is_installed("openvino") for _ in range(3)] == [False] * 3 and tried == ["openvino"]


def test_without_openvino_its_body_is_simulated_and_not_timed(bundle: Path, no_openvino: None) -> None:
    assert list(int8_bodies(open_bundle(bundle))) == ["int8-cpu-x86", BODY, "int8-tensorrt"]  # as in the manifest
    assert engine_of(open_bundle(bundle).body(BODY)) == SIMULATION
    measured, text = judged(bundle)
    (own,) = (each for each in measured.qualities if each.body == BODY)
    assert (own.engine, own.against_float.seeds) == (SIMULATION, 3)
    assert [timing.name for timing in measured.races[0].timings] == ["float32", "int8-cpu-x86"]
    assert "OpenVINO;" not in text and f"<td>{BODY}</td><td>{SIMULATION}</td>" in text
