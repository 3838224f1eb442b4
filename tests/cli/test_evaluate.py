"""What an evaluation is said to take before it begins."""

from pathlib import Path
from types import SimpleNamespace
from typing import Any

from fewstep.cli.verbs.evaluate import dry_run, evaluations, table
from fewstep.measure.distances.evaluate import EvaluateOptions, open_task
from tests.report.judged_bundle import make_bundle


def test_evaluations_are_counted_before_they_run(tmp_path: Path) -> None:
    """Of a plan with 4 steps, and a teacher with 12. Without an extractor nothing else is sampled."""
    options = EvaluateOptions(
        make_bundle(tmp_path / "tiny"), seeds=20, samples=0, teacher="dpmpp_2m:12", teacher_seeds=5
    )
    task = open_task(options)
    assert len(task.plan.steps) == 4 and len(task.bodies) == 1 and len(task.teacher.steps) == 12
    assert evaluations(task, options) == 2 * 20 * 4 + 5 * 12
    told = dry_run(options).value
    assert isinstance(told, dict) and told["evaluations"] == 220 and told["seconds"] > 0


def test_ssim_is_no_word_for_samples_that_are_no_images() -> None:
    end = SimpleNamespace(mean=30.0, p5=28.0, ssim=None, seeds=16)
    results: Any = SimpleNamespace(
        bundle="policy",
        plan="ddim:4",
        features=None,
        bodies=[SimpleNamespace(body="int8", against_float=end, distances=(), tokens=None)],
    )
    shown = str(table(results).caption), str(table(results, is_image=False).caption)
    assert ["No SSIM" in caption for caption in shown] == [True, False]
