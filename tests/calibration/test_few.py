"""One to three trajectories are enough to calibrate with, and are warned of."""

import re
from dataclasses import replace
from pathlib import Path

import pytest

from fewstep.cli.calibrate import dry_run
from tests.calibration.test_calibrate import FIRST, denoiser, run, table_of, write_bundle


@pytest.fixture
def bundle(tmp_path: Path) -> Path:
    return write_bundle(tmp_path / "bundle", denoiser())


@pytest.mark.parametrize(
    ("trajectories", "ranges", "said"),
    [
        (
            1,
            "auto",
            "how far activations reach is little known after 1 trajectory: .*, and ranges are channels, for trials",
        ),
        (3, "auto", "little known after 3 trajectories:"),
        (2, "mse", r"int8 clips more of other samples; follow 64 \(--trajectories 64\)$"),
    ],
)
def test_few_trajectories_are_warned_of_and_take_the_usual_way(
    bundle: Path, caplog: pytest.LogCaptureFixture, trajectories: int, ranges: str, said: str
) -> None:
    made = run(bundle, trajectories=trajectories, ranges=ranges, target=("cpu-x86",))
    (warning,) = [each for each in caplog.messages if "little known" in each]
    assert re.search(said, warning)
    usual = "channels" if ranges == "auto" else ranges
    assert table_of(made).method == usual
    assert not made.manifest.bodies["int8-cpu-x86"].trials
    caplog.clear()
    told = dry_run(replace(FIRST, bundle=bundle, trajectories=trajectories, ranges=ranges))  # type: ignore[arg-type]
    assert warning in caplog.messages
    assert told.value["trial_evaluations"] == 0  # type: ignore[index]
    named = "1 trajectory and" if trajectories == 1 else f"{trajectories} trajectories and"
    assert any(f"would follow {named}" in str(line) for line in told.shown)


def test_four_trajectories_are_tried_and_not_warned_of(bundle: Path, caplog: pytest.LogCaptureFixture) -> None:
    made = run(bundle, target=("cpu-x86",))
    assert not [each for each in caplog.messages if "trajector" in each]
    assert made.manifest.bodies["int8-cpu-x86"].trials
