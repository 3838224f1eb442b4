"""How `fewstep choose` times deployments: units, calls, separate processes, and impossible times."""

from contextlib import nullcontext
from itertools import chain, repeat
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from fewstep.measure import estimate
from fewstep.measure.rollouts.seeds import SeedBatch
from fewstep.report.choosing import deployment_plans, deployment_times
from fewstep.report.choosing.choose import open_judging
from fewstep.report.choosing.deployment_times import SETUP, estimate_call_time
from fewstep.report.choosing.engines import TimedEngine
from fewstep.report.choosing.options import ChooseOptions
from tests.runtime.sampling.test_prologue_rows import Split


def options(bundle: Path, within: str | None = None) -> ChooseOptions:
    return ChooseOptions(bundle, guidance=2.0, seeds=3, within=within)


def test_times_have_units(tiny_bundle: Path) -> None:
    asked = {"20ms": 20.0, "1.5s": 1500.0, "800us": 0.8, " 3 ms": 3.0}
    assert {text: options(tiny_bundle, within=text).milliseconds for text in asked} == asked


def test_a_timed_call_runs_the_conditioner_each_time(tiny_bundle: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    split, engine = Split(tiny_bundle), TimedEngine("onnxruntime", 1, None)
    monkeypatch.setattr(deployment_times, "load_body", lambda *given: split.sampler)
    plans = {"ddim:2": split.sampler.compile("ddim:2")}
    bundle = split.sampler.bundle
    batch = SeedBatch([0], bundle.manifest.x_shape, {"class": np.array([2])})
    calls = deployment_times.make_sampler_calls(bundle, "float32", engine, 1, plans, batch)
    calls["ddim:2"](), calls["ddim:2"]()
    assert split.labels == [[2], [2]]
    calls[SETUP + "ddim:2"]()
    assert split.labels == [[2], [2], [2]]


def test_deployments_are_timed_in_processes_of_their_own(tiny_bundle: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(deployment_times, "ROUNDS", 2)
    judging = open_judging(options(tiny_bundle))
    plans = deployment_plans.compile_plans(judging, "int8-cpu-x86", ("ddim:2", "ddim:64"))
    ratios, _ = deployment_times.measure_ratios(judging, "int8-cpu-x86", TimedEngine("onnxruntime", 1, None), plans)
    assert 0 < ratios["ddim:2"] < ratios["ddim:64"]
    assert 0 < deployment_times.measure_unit(judging, 1) < 1000


@pytest.mark.parametrize(("shorter", "rounds"), [((1.0,), 5), ((3.0, 3.0, 3.0, 1.0), 6), ((3.0,), 15)])
def test_times_that_cannot_be_are_measured_again_and_not_kept(
    tiny_bundle: Path,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
    shorter: tuple[float, ...],
    rounds: int,
) -> None:
    """A plan of 2 evaluations takes longer than one of 4 in some rounds, or in all."""
    times = {"ddim:2": chain(shorter, repeat(shorter[-1])), "ddim:4": repeat(2.0), "": repeat(1.0)}
    taken: list[str] = []

    class Process(nullcontext[None]):
        def __enter__(self) -> Any:
            return self

        def run_turn(self, seconds: float | None = None, call: str = "") -> list[tuple[float, float]]:
            taken.append(call)
            return [(next(times[call]), 0.0)]

    monkeypatch.setattr(deployment_times, "TimedProcess", lambda *_: Process())
    monkeypatch.setattr(estimate, "measure_load", lambda threads: 1.0)
    judging = open_judging(options(tiny_bundle))
    plans = deployment_plans.compile_plans(judging, "float32", ("ddim:2", "ddim:4"))
    ratios, is_sure = deployment_times.measure_ratios(judging, "float32", TimedEngine("onnxruntime", 1, None), plans)
    assert (taken.count("ddim:2"), is_sure) == (rounds, rounds < 15)
    assert ratios["ddim:4"] == 2.0 and (ratios["ddim:2"] <= 2.0) == is_sure
    assert ("end other programs" in caplog.text) != is_sure


def test_on_a_busy_machine_multiples_are_those_of_processor_time(
    tiny_bundle: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """All calls wait as long for other programs, so that wall times hardly grow with the number of evaluations."""

    class Process(nullcontext[None]):
        def __enter__(self) -> Any:
            return self

        def run_turn(self, seconds: float | None = None, call: str = "") -> list[tuple[float, float]]:
            used = {"ddim:2": 2e-3, "ddim:4": 4e-3, "": 1e-3}[call]
            return [(1.0 - used, used)]

    monkeypatch.setattr(deployment_times, "TimedProcess", lambda *_: Process())
    monkeypatch.setattr(estimate, "measure_load", lambda threads: 8.0)
    judging = open_judging(options(tiny_bundle))
    plans = deployment_plans.compile_plans(judging, "float32", ("ddim:2", "ddim:4"))
    ratios, _ = deployment_times.measure_ratios(judging, "float32", TimedEngine("onnxruntime", 1, None), plans)
    assert ratios == pytest.approx({"ddim:2": 2.0, "ddim:4": 4.0})


def test_a_time_slice_of_another_program_delays_neither_short_nor_long_calls() -> None:
    """Slices of 4 ms: one of 6 short calls is delayed, and most long ones."""
    short, long = [0.5e-3] * 50 + [4.5e-3] * 10, [2e-3] * 5 + [6e-3] * 15
    assert estimate_call_time(short).milliseconds == pytest.approx(0.5)
    assert estimate_call_time(long).milliseconds == pytest.approx(2.0)
    assert estimate_call_time(short).slowdown == pytest.approx(7 / 3)


def test_a_busy_machine_is_named_and_its_times_are_unsure(
    tiny_bundle: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """Half of the calls take three times as long: twice the time on average."""

    class Process(nullcontext[None]):
        def __enter__(self) -> Any:
            return self

        def run_turn(self, seconds: float | None = None, call: str = "") -> list[tuple[float, float]]:
            fast = {"ddim:2": 2e-3, "ddim:4": 4e-3, "": 1e-3}[call]
            return [(fast, 0.0), (3 * fast, 0.0)] * 5

        def wall_times(self) -> list[float]:
            return [wall for wall, _ in self.run_turn()]

    monkeypatch.setattr(deployment_times, "TimedProcess", lambda *_: Process())
    monkeypatch.setattr(estimate, "measure_load", lambda threads: 1.0)
    judging = open_judging(options(tiny_bundle))
    plans = deployment_plans.compile_plans(judging, "float32", ("ddim:2", "ddim:4"))
    ratios, is_sure = deployment_times.measure_ratios(judging, "float32", TimedEngine("onnxruntime", 1, None), plans)
    assert ratios == pytest.approx({"ddim:2": 2.0, "ddim:4": 4.0}) and not is_sure
    assert deployment_times.measure_unit(judging, 1) == pytest.approx(1.0)
    (warning,) = [record.getMessage() for record in caplog.records if record.levelname == "WARNING"]
    assert "this machine is busy: other programs make calls take 2.0x their time on average" in warning
    assert "The first `choose` on the idle machine measures them again" in warning
