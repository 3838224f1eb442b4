"""What a report is said to take before it begins is what it takes."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from fewstep.cli.verbs.report import dry_run
from fewstep.report import measure as module
from fewstep.report.measure import measure
from fewstep.report.options import ReportOptions
from fewstep.report.write import open_report, shown_of
from fewstep.runtime.sampler import Sampler
from fewstep.runtime.step_call import StepCall
from tests.report.judged_bundle import make_bundle


def test_evaluations_are_those_that_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    few: dict[str, Any] = {"seeds": 20, "forced_seeds": 18, "teacher_seeds": 3, "simulated_seeds": 5}
    options = ReportOptions(make_bundle(tmp_path / "tiny"), teacher="dpmpp_2m:12", batches=(1,), **few)
    told = dry_run(options)
    evaluated = 0
    step_call = Sampler._step_call

    def counting(sampler: Sampler, plan: Any, samples: int, *more: Any) -> StepCall:
        def record(*_: Any) -> None:
            nonlocal evaluated
            evaluated += samples

        return replace(step_call(sampler, plan, samples, *more), record=record)

    monkeypatch.setattr(Sampler, "_step_call", counting)
    monkeypatch.setattr(module, "races", lambda *_, **rest: ())
    task = open_report(options)
    measure(task, shown_of(task, options))
    assert isinstance(told.value, dict) and told.value["evaluations"] == evaluated
    assert told.value["seconds"] > 0 and told.value["needs"].files == 3
    assert f"{evaluated} evaluations of one sample" in "\n".join(map(str, told.shown))
