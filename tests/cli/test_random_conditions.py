"""Output names conditions with random values next to the figures, in text and in JSON."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from fewstep.calibration.calibrate import calibrate
from fewstep.calibration.options import CalibrateOptions
from fewstep.measure.measure import measure
from fewstep.measure.options import MeasureOptions
from fewstep.measure.results import Results
from fewstep.report.advice import advice
from fewstep.runtime.bundle.reading import open_bundle
from tests.cli.conftest import Command, Document
from tests.measure.rollouts.inpainting import write_inpainting

CALIBRATE = ("--plan", "ddim:2", "--target", "cpu-x86", "--trajectories", 4)
SAID = "on random values of mask, masked: give --conditions FILE"


@pytest.fixture(scope="module")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A bundle that was calibrated without conditions."""
    bundle = write_inpainting(tmp_path_factory.mktemp("inpainting") / "bundle")
    calibrate(CalibrateOptions(bundle, plan="ddim:2", target=("cpu-x86",), trajectories=4))
    return bundle


@pytest.fixture(scope="module")
def own(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A user's file of conditions."""
    file = tmp_path_factory.mktemp("own") / "own.npz"
    np.savez(file, mask=np.zeros((4, 1, 8, 8), "f"), masked=np.ones((4, 1, 8, 8), "f"))
    return file


def measure_psnr(bundle: Path, **options: Any) -> Results:
    return measure(MeasureOptions(bundle, columns=("psnr",), seeds=4, teacher="ddim:4", teacher_seeds=2, **options))


def verdict(results: Results, bundle: Path) -> str:
    advised = advice(results, open_bundle(bundle), bundle)
    assert advised is not None
    return advised.verdict


@pytest.fixture
def bundle_copy(tmp_path: Path) -> Path:
    """A bundle without a calibration."""
    return write_inpainting(tmp_path / "copied")


@pytest.mark.slow
def test_calibrate_says_it_in_json(bundle_copy: Path, document: Document, own: Path) -> None:
    def random_conditions(*more: object) -> list[str]:
        made = document("calibrate", bundle_copy, *CALIBRATE, *more)
        (trial,) = made["bodies"]["int8-cpu-x86"]["trials"]
        assert [call["body"] for call in made["calls"]] == ["int8-cpu-x86"]  # the time of a whole call
        return list(trial.get("random_conditions", []))

    assert random_conditions() == ["mask", "masked"] and random_conditions("--conditions", own) == []


@pytest.mark.slow
def test_calibrate_says_it_in_words(bundle_copy: Path, fewstep: Command, own: Path) -> None:
    assert SAID in fewstep("calibrate", bundle_copy, *CALIBRATE).out
    assert "random values" not in fewstep("calibrate", bundle_copy, *CALIBRATE, "--conditions", own).out


def test_measure_says_it_unless_conditions_are_given(bundle: Path, own: Path) -> None:
    results, given = measure_psnr(bundle), measure_psnr(bundle, conditions=own)
    assert results.random_conditions == ("mask", "masked") and SAID in verdict(results, bundle)
    assert given.random_conditions == () and SAID not in verdict(given, bundle)


@pytest.mark.slow
def test_the_page_of_a_report_says_it(bundle: Path, fewstep: Command, tmp_path: Path) -> None:
    short = "--seeds 4 --forced-seeds 2 --teacher ddim:4 --teacher-seeds 2 --batches 1 --rounds 1 --turn-seconds 0.01"
    printed = fewstep("report", bundle, *short.split(), "-o", tmp_path / "page.html").out
    assert SAID in (tmp_path / "page.html").read_text() and f", judged {SAID}" in printed and "Look at it: " in printed
