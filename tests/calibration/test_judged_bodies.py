"""A user's judge decides in a calibration: which body is written, and what the verdict says."""

from pathlib import Path

import pytest

from fewstep.calibration.calibrate import Calibration
from fewstep.cli.describe.trials import describe_trials
from fewstep.measure.rollouts.seeds import BODY_SEEDS, VERDICT_SEEDS, SeedBatch
from fewstep.runtime.bundle.figures import JudgeScore
from fewstep.runtime.bundle.reading import open_bundle
from fewstep.runtime.sampling.loading import load
from tests.calibration.test_calibrated_body import judge, plant, run
from tests.refusals import refuses

JUDGES = """
import numpy as np


def mean(samples, reference, conditions, least: float):
    assert len(samples) == len(reference) == len(conditions["class"])
    return samples.mean(axis=(1, 2, 3)), least


def near(samples, reference, conditions, least: float):
    return -np.abs(samples - reference).max(axis=(1, 2, 3)), least


def broken(samples, reference, conditions):
    return samples, 0.0
"""


@pytest.fixture
def judges(tmp_path: Path) -> Path:
    file = tmp_path / "judges.py"
    file.write_text(JUDGES)
    return file


def score(calibration: Calibration) -> JudgeScore:
    judged = judge(calibration).judged
    assert judged is not None
    return judged


def test_the_score_is_that_of_the_samples_that_are_compared_anyway(bundle: Path, judges: Path) -> None:
    judged = score(run(bundle, judge=f"{judges}:mean:-9", trajectories=12))
    seeds = (*BODY_SEEDS, *VERDICT_SEEDS)[:12]
    batch = SeedBatch.from_manifest(open_bundle(bundle).manifest, seeds)
    with load(bundle, precision="int8") as int8, load(bundle) as float32:
        plan = int8.compile()
        samples, exact = (sampler.sample(plan, seeds, batch.conditions) for sampler in (int8, float32))
    assert judged.seeds == 12 and judged.score.value == pytest.approx(samples.mean(), abs=1e-4)
    assert judged.float32.value == pytest.approx(exact.mean(), abs=1e-4)
    assert judged.score.name == "judges.py:mean:-9" and len(judged.sha256) == 64
    stored = open_bundle(bundle).manifest
    assert stored.bodies["int8-cpu-x86"].trials[0].judged == judged
    assert "--judge judges.py:mean:-9" in stored.provenance.commands[-1]
    (verdict, *_) = describe_trials(stored.bodies["int8-cpu-x86"].trials)
    assert verdict.startswith("Good to ship: int8 scores ") and "dB PSNR" in verdict


def test_a_body_passes_by_the_judge_although_its_psnr_is_too_low(
    bundle: Path, judges: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    plant(monkeypatch, 10.0)
    with refuses("at least 25 and 15 dB are required"):
        run(bundle)
    trial = judge(run(bundle, judge=f"{judges}:mean:-1000"))
    assert trial.psnr < 25 and trial.judged is not None and trial.judged.problem is None


def test_a_body_that_misses_the_limit_is_refused_and_not_written(bundle: Path, judges: Path) -> None:
    before = open_bundle(bundle).manifest
    with refuses(("int8 for cpu-x86 scores -0.", "by judges.py:near:-1e-9, less than -1e-09"), "--quality 30dB"):
        run(bundle, judge=f"{judges}:near:-1e-9")
    assert open_bundle(bundle).manifest == before


def test_float32_that_misses_the_limit_itself_is_named(
    bundle: Path, judges: Path, caplog: pytest.LogCaptureFixture
) -> None:
    with refuses(("int8 for cpu-x86 scores", "but float32 itself scores"), "a limit that float32 reaches"):
        run(bundle, judge=f"{judges}:mean:1000")
    assert "float32 itself scores" in caplog.text and f"on {len(BODY_SEEDS)} seeds" in caplog.text


def test_a_judge_that_fails_does_so_before_activations_are_counted(
    bundle: Path, judges: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("fewstep.calibration.calibrate.count_activations", None)
    with refuses(("judges.py:broken returned ndarray", "as the score of 2 samples"), "return (score, limit)"):
        run(bundle, judge=f"{judges}:broken")
