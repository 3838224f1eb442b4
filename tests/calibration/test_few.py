"""One to three trajectories are enough to calibrate with, and are warned of."""

import re
from dataclasses import replace
from pathlib import Path

import pytest

from fewstep.cli.verbs.calibrate import dry_run
from tests.calibration.test_calibrate import FIRST, run


@pytest.mark.parametrize("trajectories", [1, 3])
def test_few_trajectories_are_warned_of(bundle: Path, caplog: pytest.LogCaptureFixture, trajectories: int) -> None:
    calibration = run(bundle, trajectories=trajectories, target=("cpu-x86",))
    (warning,) = [each for each in caplog.messages if "little known" in each]
    assert re.search(rf"after {trajectories} traject.*; follow 64 \(--trajectories 64\)$", warning)
    (trial,) = calibration.manifest.bodies["int8-cpu-x86"].trials
    assert trial.seeds == trajectories
    caplog.clear()
    would = dry_run(replace(FIRST, bundle=bundle, trajectories=trajectories))
    assert warning in caplog.messages
    named = "1 trajectory and" if trajectories == 1 else f"{trajectories} trajectories and"
    assert any(f"would follow {named}" in str(line) for line in would.shown)


def test_four_trajectories_are_not_warned_of(bundle: Path, caplog: pytest.LogCaptureFixture) -> None:
    run(bundle, target=("cpu-x86",))
    assert not [each for each in caplog.messages if "trajector" in each]
