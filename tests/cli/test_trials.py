"""The samples by which calibration judged a body, in the text of `inspect`."""

from pathlib import Path

import msgspec
import pytest

from fewstep.cli.tables import show
from fewstep.cli.trials import trial_lines
from fewstep.cli.verbs.inspect import verb as inspect_verb
from fewstep.graph.commit import open_for_update
from fewstep.report.contents import InspectOptions, inspect
from fewstep.runtime.bundle.manifest import Trial
from fewstep.runtime.bundle.reading import open_bundle
from tests.calibration.test_calibrate import denoiser, run, write_bundle

TRIALS = (
    Trial("channels", 41.25, 36.5, 32, is_chosen=False),
    Trial("channels", 46.0, 40.25, 32, is_chosen=True, has_bias=True, shift=0.02, in_float=("h2",)),
    Trial("minmax", 38.0, 30.0, 16, is_chosen=False),
)


def test_a_line_says_how_good_the_deployed_body_was() -> None:
    """Earlier versions tried several."""
    assert list(trial_lines(TRIALS)) == ["46.0 dB, 5th percentile 40.2 dB, 32 seeds"]


def test_inspect_shows_the_trials_of_the_bundle(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    bundle = write_bundle(tmp_path / "bundle", denoiser())
    run(bundle, target=("cpu-x86",))
    with open_for_update(bundle, must_exist=True) as writer:
        manifest = open_bundle(bundle).manifest
        body = msgspec.structs.replace(manifest.bodies["int8-cpu-x86"], trials=TRIALS)
        writer.commit(msgspec.structs.replace(manifest, bodies={**manifest.bodies, "int8-cpu-x86": body}))
    assert inspect(InspectOptions(bundle)).manifest.bodies["int8-cpu-x86"].trials == TRIALS
    show(inspect_verb(InspectOptions(bundle), lambda *seen: None).shown[0])
    shown = " ".join(capsys.readouterr().out.split())
    assert "judged by samples of calibration" in shown and "46.0 dB" in shown
