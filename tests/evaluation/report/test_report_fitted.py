"""A report along a fitted plan: all bodies run the one of the first, and one warning names the others."""

import logging
from pathlib import Path

import pytest

from fewstep.evaluation.report import ReportOptions, report
from tests.evaluation.judged_bundle import make_bundle
from tests.runtime.test_fitted_plans import give

FEW = {"seeds": 4, "forced_seeds": 2, "teacher_seeds": 2, "simulated_seeds": 2, "batches": (1,), "rounds": 1}


def test_it_is_judged_along_the_plan_of_the_first_body_with_one_warning(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    bundle = make_bundle(tmp_path / "tiny")
    give(bundle)
    give(bundle, body="int8-cpu-x86", numbers="ddim:3")
    asked = {"plan": "fitted:3", "output": tmp_path / "page.html", "turn_seconds": 0.01, "threads": 1, **FEW}
    with caplog.at_level(logging.WARNING, "fewstep"):
        found = report(ReportOptions(bundle, teacher="dpmpp_2m:12", **asked))
    told = [record.getMessage() for record in caplog.records if "fitted" in record.getMessage()]
    words = "was fitted to int8-cpu-x86, and is judged on int8-tensorrt: its gain may be smaller"
    assert told == [f"plan fitted:3 {words}"]
    assert found.plan == "fitted:3" and {each.body for each in found.qualities} == {"int8-cpu-x86", "int8-tensorrt"}
    assert "steps" in {each.change for each in found.remedies}
