"""A report says whether the teacher's many steps are further from the data than the plan's few."""

from pathlib import Path
from typing import Any

import pytest

from fewstep.cli.describe.results_table import format_results
from fewstep.report.options import ReportOptions
from fewstep.report.report import report
from fewstep.runtime import load
from tests.bundles import change_bundle
from tests.report.judged_bundle import make_bundle


@pytest.mark.slow
def test_a_teacher_further_from_the_data_than_few_steps_is_said(tmp_path: Path) -> None:
    """The statistics are those of the samples of few steps, which float32 draws here, and then those of the teacher."""
    bundle, few, seeds = make_bundle(tmp_path / "tiny"), "dpmpp_2m:2", range(24)
    options: Any = {
        "seeds": 24,
        "forced_seeds": 1,
        "teacher_seeds": 24,
        "simulated_seeds": 24,
        "batches": (1,),
        "rounds": 1,
    }
    with load(bundle) as sampler:
        labels = {"class": [seed % 10 for seed in seeds]}
        drawn = [sampler.sample(plan, seeds, labels, 2.0) for plan in (few, "dpmpp_2m:80@arctan")]
    for samples, is_further in zip(drawn, (True, False), strict=True):
        change_bundle(bundle, {}, data_moments=(float(samples.mean()), float(samples.std())))
        output = tmp_path / "page.html"
        asked = ReportOptions(bundle, output, plan=few, teacher="dpmpp_2m:80@arctan", turn_seconds=0.01, **options)
        measured, page = report(asked), output.read_text()
        assert measured.teacher_distance is not None and measured.teacher_distance.seeds == 24
        assert (measured.further_teacher is not None) is is_further, measured.teacher_distance
        assert ("further from the data" in page) is is_further
        assert ("further from the data" in "".join(map(str, format_results(measured, bundle)))) is is_further
