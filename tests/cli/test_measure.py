"""What a measurement is said to take before it begins."""

from pathlib import Path
from types import SimpleNamespace
from typing import Any

from fewstep.cli.measured_table import measured_table as table
from fewstep.cli.verbs.measure import dry_run
from fewstep.measure.measure import MeasureOptions, evaluations, open_task
from fewstep.measure.nearness import Nearness
from tests.report.judged_bundle import make_bundle


def test_evaluations_are_counted_before_they_run(tmp_path: Path) -> None:
    """Of a plan with 4 steps, and a teacher with 12. Without an extractor nothing else is sampled."""
    options = MeasureOptions(
        make_bundle(tmp_path / "tiny"), ("psnr", "fd"), seeds=20, teacher="dpmpp_2m:12", teacher_seeds=5
    )
    judged = open_task(options).judged
    assert judged is not None and judged.task.teacher is not None
    assert len(judged.task.plan.steps) == 4 and len(judged.task.bodies) == 1 and len(judged.task.teacher.steps) == 12
    assert evaluations(judged) == 2 * 20 * 4 + 5 * 12
    told = dry_run(options).value
    assert isinstance(told, dict) and told["evaluations"] == 220 and told["seconds"] > 0


def test_ssim_is_no_word_for_samples_that_are_no_images() -> None:
    end = SimpleNamespace(mean=30.0, p5=28.0, ssim=None, seeds=16, snr=19.0, nearness=Nearness(30.0, 19.0, 9.0))
    results: Any = SimpleNamespace(
        bundle="policy",
        covered=(),
        int8_share=lambda body: None,
        races=(),
        plan="ddim:4",
        features=None,
        sizes={},
        qualities=[SimpleNamespace(body="int8", engine="onnxruntime", against_float=end, distances=(), tokens=None)],
    )
    shown = str(table(results).caption), str(table(results, is_image=False).caption)
    assert ["No SSIM" in caption for caption in shown] == [True, False]
    assert "signal: dB above the error; another seed's sample has 9.0 dB" in shown[1]
