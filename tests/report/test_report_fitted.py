"""A report along a fitted plan: each body runs its own."""

from pathlib import Path

from fewstep.report.options import ReportOptions
from fewstep.report.write import report
from tests.report.judged_bundle import make_bundle
from tests.runtime.test_fitted_plans import give

FEW = {"seeds": 4, "forced_seeds": 2, "teacher_seeds": 2, "simulated_seeds": 2, "batches": (1,), "rounds": 1}


def test_each_body_runs_its_own_and_float32_beside_it(tmp_path: Path) -> None:
    bundle = make_bundle(tmp_path / "tiny")
    give(bundle, body="int8-cpu-x86", numbers="ddim:3")
    give(bundle, body="int8-tensorrt")
    asked = {"plan": "fitted:3", "output": tmp_path / "page.html", "turn_seconds": 0.01, "threads": 1, **FEW}
    found = report(ReportOptions(bundle, teacher="dpmpp_2m:12", **asked))
    numbers = {}
    for plan in ("ddim:3", "dpmpp_2m:3"):  # of the one and of the other
        alone = ReportOptions(bundle, teacher="dpmpp_2m:12", guidance=2.0, **{**asked, "plan": plan})
        numbers[plan] = {each.body: each.against_float.values for each in report(alone).qualities}
    values = {each.body: each.against_float.values for each in found.qualities}
    assert values == {
        "int8-cpu-x86": numbers["ddim:3"]["int8-cpu-x86"],
        "int8-tensorrt": numbers["dpmpp_2m:3"]["int8-tensorrt"],
    }
    assert any(note.startswith("int8-tensorrt: fitted:3 is the plan that was fitted to each") for note in found.notes)
