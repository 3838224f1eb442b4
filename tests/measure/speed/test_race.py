"""Which time the ratios of a race compare."""

from contextlib import nullcontext
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from fewstep.measure.speed import race as racing
from fewstep.measure.speed.contender import OnBackend, TimedContender, TimedGraph
from fewstep.measure.speed.contender_process import Seconds
from fewstep.measure.speed.race import Race, Turns, describe_measure, describe_times, run_race

FILE = Path("a.onnx")


@pytest.mark.parametrize(
    ("graph", "load", "ratio", "said"),
    [
        (FILE, 1.0, 10.0, ""),
        (FILE, 4.0, 1.25, " in processor time, since other programs"),
        (OnBackend("openvino", Path("bundle"), "int8"), 4.0, 1.25, " in processor time, since other programs"),
        (OnBackend("tensorrt", Path("bundle"), "int8"), 4.0, 10.0, ", while other programs"),
    ],
)
def test_on_a_busy_machine_ratios_of_cpus_are_of_processor_time(
    monkeypatch: pytest.MonkeyPatch, graph: Path | OnBackend, load: float, ratio: float, said: str
) -> None:
    """Time slices of other programs delay the longer calls of float32, and not those of int8. The processor time is
    counted in ticks, of which most calls take none."""

    class Process(nullcontext[None]):
        load = 0.0
        peak_mib = staticmethod(lambda: 0.0)

        def __init__(self, name: str, opener: object) -> None:
            self.name = name

        def __enter__(self) -> Any:
            return self

        def run_turn(self, seconds: float, call: str = "") -> list[Seconds]:
            return [(0.1, 0.0), (0.1, 0.0), (0.1, 0.05)] if self.name == "float32" else [(0.01, 0.0), (0.01, 0.0267)]

    monkeypatch.setattr(racing, "TimedProcess", Process)
    monkeypatch.setattr(racing, "measure_load", lambda _: load)
    feeds = {"x": np.zeros((1, 1))}
    contenders = [TimedContender(name, (TimedGraph(of, feeds),)) for name, of in (("float32", FILE), ("int8", graph))]
    race = run_race(contenders, Turns(rounds=3))
    assert race.timings[1].ratio == pytest.approx(ratio, rel=1e-2) and race.measure.startswith(said)
    assert (race.load, bool(race.measure)) == (load, bool(said))
    assert race.timings[0].median == pytest.approx(0.05 / 3 if race.by_processor else 0.1)


def test_batches_that_were_timed_on_a_busy_machine_are_named() -> None:
    idle, busy = Race(1, 1, 7, ()), Race(8, 1, 7, (), 2.0, by_processor=True)
    said = " in processor time, since other programs made work take 2.0 times as long,"
    assert [describe_measure(races) for races in ((idle,), (busy,), (idle, busy))] == ["", said, f", of batch 8{said}"]


def test_times_of_a_busy_machine_are_named() -> None:
    idle, busy, of_gpu = Race(1, 1, 7, ()), Race(8, 1, 7, (), 2.0, by_processor=True), Race(8, 1, 7, (), 2.0)
    said = ["time", "processor time", "time, which is processor time where the speedup is"]
    assert [describe_times(races) for races in ((idle,), (busy,), (idle, busy))] == said
    assert describe_times((of_gpu,)) == "wall time, which these programs lengthen"
