"""The float32 runs that bodies are compared with: recorded in one session of a large network, with the same bytes."""

import logging
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from fewstep.calibration import calibrate as calibrating
from fewstep.calibration import cost, float_runs
from fewstep.measure.rollouts.on_demand import LazyOnnxRuntime
from fewstep.runtime.progress import ESTIMATES
from fewstep.runtime.sampling.lazy_graphs import LazyGraph
from tests.calibration.test_calibrate import FIRST, contents, denoiser, run, task_of, write_bundle
from tests.refusals import refuses


def test_bodies_are_the_same_if_float32_is_recorded_before_counting(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    made = []
    for is_first in (False, True):
        monkeypatch.setattr(calibrating, "records_first", lambda tasks, is_first=is_first: is_first)
        bundle = write_bundle(tmp_path / str(is_first), denoiser())
        run(bundle, target=("cpu-x86",))
        made.append(contents(bundle))
    assert made[0] == made[1]


@pytest.mark.parametrize(("is_first", "opened"), [(False, 3), (True, 1)])
def test_a_large_network_opens_one_session_for_its_float32_runs(
    bundle: Path, monkeypatch: pytest.MonkeyPatch, is_first: bool, opened: int
) -> None:
    """The estimate and both runs would each open the network again."""
    real, bodies = LazyOnnxRuntime.load, []

    def load(self: LazyOnnxRuntime, bundle: Any, name: str) -> Any:
        graph = real(self, bundle, name)
        if name == "float32":
            opener = graph._open
            object.__setattr__(graph, "_open", lambda: bodies.append(name) or opener())
        return graph

    monkeypatch.setattr(LazyOnnxRuntime, "load", load)
    monkeypatch.setattr(calibrating, "records_first", lambda tasks: is_first)
    run(bundle, target=("cpu-x86",))
    assert len(bodies) == opened


def test_the_estimate_of_a_large_network_is_that_of_its_recorded_run(
    bundle: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    ticks = iter([0.0, 100.0, 120.0, 150.0])  # opening and the first step, the second step, the third
    monkeypatch.setattr(float_runs, "perf_counter", lambda: next(ticks))
    monkeypatch.setattr(calibrating, "records_first", lambda tasks: True)
    monkeypatch.setattr("fewstep.measure.estimate.measure_load", lambda: 1.0)
    with caplog.at_level(logging.INFO, ESTIMATES.name):
        run(bundle, target=("cpu-x86",), trajectories=2)
    count = 3 * (2 + 2 + 2 + 6 + 6 + 4 + 2)  # 20 seconds for the two samples of a step
    assert f"this takes up to 12 minutes: {count} evaluations of one sample" in caplog.messages


def test_float32_is_closed_before_counting(bundle: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Counting opens a separate session."""
    events: list[str] = []
    real, close = calibrating.count_activations, LazyGraph.close
    monkeypatch.setattr(LazyGraph, "close", lambda self: events.append("closed") or close(self))
    monkeypatch.setattr(calibrating, "count_activations", lambda *given: events.append("counted") or real(*given))
    monkeypatch.setattr(calibrating, "records_first", lambda tasks: True)
    run(bundle, target=("cpu-x86",))
    assert events[:2] == ["closed", "counted"]


def test_a_single_large_network_with_two_steps_records_first(bundle: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    task = task_of(replace(FIRST, bundle=bundle, target=("cpu-x86",)))
    assert not cost.records_first([task])  # small
    monkeypatch.setattr(cost, "exceeds_one_file", lambda graph: True)
    assert cost.records_first([task])
    assert not cost.records_first([task, task])
    assert not cost.records_first([replace(task, no_floats=True)])
    assert not cost.records_first([replace(task, plan=task.sampler.compile("ddim:1"))])


def test_counting_names_the_tensor_if_float32_fails(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(calibrating, "records_first", lambda tasks: True)
    bundle = write_bundle(tmp_path / "bundle", denoiser(float("nan")))
    with refuses("tensor 'h0' of the float denoiser is not finite"):
        run(bundle)
