"""A report along a fitted plan, on OpenVINO, and by workers: each body runs its own plan, with bitwise the same
figures.
"""

import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pytest

from fewstep.cli.verbs.report import dry_run
from fewstep.measure import body_backends, judged_task
from fewstep.measure import measurement as module
from fewstep.measure.bodies import int8_bodies
from fewstep.measure.body_backends import SIMULATION, inference_engine_of
from fewstep.measure.measure import open_measure_task
from fewstep.measure.open_body import SamplingJob
from fewstep.measure.options import MeasureOptions
from fewstep.measure.results import Results
from fewstep.measure.workers.process_pool import ProcessPool
from fewstep.report.figures import collect_figures as figures_of
from fewstep.report.options import ReportOptions
from fewstep.report.report import report
from fewstep.report.report_task import open_report_task
from fewstep.report.sections.samples import Samples
from fewstep.runtime.backends import openvino
from fewstep.runtime.backends.openvino import OpenVino
from fewstep.runtime.bundle.reading import open_bundle
from tests.bundles import change_bundle, with_bodies
from tests.report.judged_bundle import ERROR, add_earlier, make_bundle
from tests.runtime.sampling.test_fitted_plans import give

FEW = {"seeds": 4, "forced_seeds": 2, "teacher_seeds": 2, "simulated_seeds": 2, "batches": (1,), "rounds": 1}


@pytest.mark.slow
def test_each_body_runs_its_own_and_float32_next_to_it(tmp_path: Path) -> None:
    bundle = make_bundle(tmp_path / "tiny")
    give(bundle, body="int8-cpu-x86", numbers="ddim:3")
    give(bundle, body="int8-tensorrt")
    asked = {"plan": "fitted:3", "output": tmp_path / "page.html", "turn_seconds": 0.01, "threads": 1, **FEW}
    found = report(ReportOptions(bundle, teacher="dpmpp_2m:12", **asked))
    numbers = {}
    for plan in ("ddim:3", "dpmpp_2m:3"):  # of the one and of the other
        alone = ReportOptions(bundle, teacher="dpmpp_2m:12", guidance=2.0, **{**asked, "plan": plan})
        numbers[plan] = {quality.body: quality.against_float.values for quality in report(alone).qualities}
    values = {quality.body: quality.against_float.values for quality in found.qualities}
    assert values == {
        "int8-cpu-x86": numbers["ddim:3"]["int8-cpu-x86"],
        "int8-tensorrt": numbers["dpmpp_2m:3"]["int8-tensorrt"],
    }
    assert any(note.startswith("int8-tensorrt: fitted:3 was fitted to each separately") for note in found.notes)


BODY = "int8-openvino"


@pytest.fixture
def bundle(tmp_path: Path) -> Path:
    """A bundle that also has an int8-openvino body; the other bodies are unchanged."""
    path: Path = make_bundle(tmp_path / "tiny")
    bodies = open_bundle(path).manifest.bodies
    own = msgspec.structs.replace(bodies["int8-tensorrt"], target="openvino")
    return change_bundle(path, bodies={BODY: own, **bodies})


def options(bundle: Path) -> ReportOptions:
    few = {"seeds": 6, "forced_seeds": 4, "teacher_seeds": 1, "simulated_seeds": 3, "batches": (1,), "rounds": 1}
    return ReportOptions(bundle, teacher="dpmpp_2m:6", turn_seconds=0.01, **few)  # type: ignore[arg-type]


def judge_and_read(bundle: Path) -> tuple[Results, str]:
    measured = report(options(bundle))
    return measured, (bundle / "report" / "index.html").read_text()


@pytest.mark.slow
def test_openvino_runs_its_body_on_all_seeds_and_is_timed(bundle: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("openvino", reason="openvino is not installed")
    loaded: list[str] = []
    load = OpenVino.load
    monkeypatch.setattr(OpenVino, "load", lambda *given: loaded.append(given[2]) or load(*given))
    measured, text = judge_and_read(bundle)
    assert BODY in loaded and "float32" not in loaded
    assert [(quality.body, quality.computed_by) for quality in measured.qualities] == [
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
    stated = dry_run(options(bundle)).value
    assert stated["seeds"] == {"int8-cpu-x86": 6, BODY: 6, "int8-tensorrt": 3}


def test_measure_takes_it_by_default(bundle: Path) -> None:
    pytest.importorskip("openvino", reason="openvino is not installed")
    assert list(open_measure_task(MeasureOptions(bundle, ("psnr",))).judged.bodies) == ["int8-cpu-x86", BODY]


@pytest.mark.slow
def test_a_bundle_for_openvino_alone_is_raced_too(bundle: Path) -> None:
    pytest.importorskip("openvino", reason="openvino is not installed")
    measured, text = judge_and_read(with_bodies(bundle, BODY, "float32"))
    assert [timing.name for timing in measured.races[0].timings] == ["float32", BODY]
    assert f"<td>{BODY}</td><td>OpenVINO</td>" in text


@pytest.fixture
def no_openvino(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Hide OpenVINO."""
    monkeypatch.setitem(sys.modules, "openvino", None)
    body_backends._has_openvino.cache_clear()
    yield
    body_backends._has_openvino.cache_clear()


def test_whether_openvino_is_installed_is_tried_once(no_openvino: None, monkeypatch: pytest.MonkeyPatch) -> None:
    tried, module = list[None](), openvino.import_openvino
    monkeypatch.setattr(openvino, "import_openvino", lambda: tried.append(None) or module())
    assert [body_backends._has_openvino() for _ in range(3)] == [False] * 3 and len(tried) == 1


@pytest.mark.slow
def test_without_openvino_its_body_is_simulated_and_not_timed(bundle: Path, no_openvino: None) -> None:
    assert list(int8_bodies(open_bundle(bundle))) == ["int8-cpu-x86", BODY, "int8-tensorrt"]  # as in the manifest
    assert inference_engine_of(open_bundle(bundle).body(BODY)) == SIMULATION
    measured, text = judge_and_read(bundle)
    (own,) = (quality for quality in measured.qualities if quality.body == BODY)
    assert (own.computed_by, own.against_float.seeds) == (SIMULATION, 3)
    assert [timing.name for timing in measured.races[0].timings] == ["float32", "int8-cpu-x86"]
    assert "OpenVINO;" not in text and f"<td>{BODY}</td><td>{SIMULATION}</td>" in text


def report_options(folder: Path, **changes: Any) -> ReportOptions:
    """Options of a report in two batches. The second has fewer seeds that are judged step by step, and none of the
    simulated body.
    """
    bundle = make_bundle(folder)
    add_earlier(bundle)
    few: dict[str, Any] = {"seeds": 20, "forced_seeds": 18, "teacher_seeds": 3, "simulated_seeds": 5, "rounds": 1}
    return ReportOptions(bundle, teacher="dpmpp_2m:12", batches=(1,), turn_seconds=0.01, **few, **changes)


def figures(measured: Results) -> Results:
    """Return the figures that do not depend on a clock."""
    return msgspec.structs.replace(measured, races=(), seconds=0.0)


def measure_by(options: ReportOptions, workers: ProcessPool | None = None) -> tuple[Results, Any]:
    """Return the figures and the samples of a report."""
    return figures_of(open_report_task(options), workers=workers)


def arrays(samples: Samples) -> list[bytes]:
    bodies = [body for body, _ in samples.bodies.values()]
    return [each.tobytes() for each in (samples.teacher, samples.reference, *bodies)]


@pytest.mark.parametrize("count", [2, pytest.param(1, marks=pytest.mark.slow)])
def test_any_number_of_workers_gives_the_figures_of_none(tmp_path: Path, count: int) -> None:
    options = report_options(tmp_path / "tiny")
    alone, sampled = measure_by(options)
    assert [quality.against_float.seeds for quality in alone.qualities] == [20, 5]
    assert np.isfinite([step.forced for step in alone.qualities[0].steps]).all()
    with ProcessPool(count) as workers:
        spread, others = measure_by(options, workers=workers)
    assert (figures(spread), arrays(others)) == (figures(alone), arrays(sampled))


def test_workers_of_the_options_have_ended_when_bodies_are_timed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    ended: list[int] = []
    end = ProcessPool.shutdown

    def ending(workers: ProcessPool, *how: Any, **also: Any) -> None:
        end(workers, *how, **also)
        ended.append(len(workers._children))

    monkeypatch.setattr(ProcessPool, "shutdown", ending)
    monkeypatch.setattr(
        module, "run_races", lambda *_, **rest: () if ended == [0] else pytest.fail("workers are there")
    )
    options = report_options(tmp_path / "tiny", workers=1)
    measured, _ = measure_by(options)
    assert ended == [0] and "--turn-seconds 0.01" in measured.command


@pytest.mark.slow
def test_the_bodies_of_workers_see_one_row_at_a_time_too(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As for a large network with several graphs. The figures are those of whole batches."""
    options = report_options(tmp_path / "tiny")
    whole, sampled = measure_by(options)
    monkeypatch.setattr("fewstep.measure.cost.MOST_ACTIVATIONS", 10**4)
    real = judged_task.SamplingJob
    jobs: list[SamplingJob] = []

    def record_job(*given: Any) -> SamplingJob:
        jobs.append(real(*given))
        return jobs[-1]

    monkeypatch.setattr(judged_task, "SamplingJob", record_job)
    with ProcessPool(1) as workers:
        by_rows, others = measure_by(options, workers=workers)
    assert [job.by_rows for job in jobs] == [True]
    assert (figures(by_rows), arrays(others)) == (figures(whole), arrays(sampled))
