"""Which time the ratios of a race compare."""

from contextlib import nullcontext
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from fewstep.measure.speed import race as racing
from fewstep.measure.speed.contender import TimedContender, TimedGraph
from fewstep.measure.speed.contender_process import Seconds
from fewstep.measure.speed.race import Turns, run_race


@pytest.mark.parametrize(("load", "ratio", "said"), [(1.0, 10.0, ""), (4.0, 1.25, " in processor time, since other")])
def test_on_a_busy_machine_ratios_are_of_processor_time(
    monkeypatch: pytest.MonkeyPatch, load: float, ratio: float, said: str
) -> None:
    """Time slices of other programs delay the longer calls of float32, and not those of int8."""

    class Process(nullcontext[None]):
        load = 0.0
        peak_mib = staticmethod(lambda: 0.0)

        def __init__(self, name: str, opener: object) -> None:
            self.name = name

        def __enter__(self) -> Any:
            return self

        def run_turn(self, seconds: float, call: str = "") -> list[Seconds]:
            return [(0.1, 0.0125)] if self.name == "float32" else [(0.01, 0.01)]

    monkeypatch.setattr(racing, "TimedProcess", Process)
    monkeypatch.setattr(racing, "measure_load", lambda: load)
    graph = TimedGraph(Path("a.onnx"), {"x": np.zeros((1, 1))})
    race = run_race([TimedContender(name, (graph,)) for name in ("float32", "int8")], Turns(rounds=3))
    assert race.timings[1].ratio == pytest.approx(ratio) and race.measure.startswith(said)
    assert (race.load, bool(race.measure)) == (load, bool(said))
