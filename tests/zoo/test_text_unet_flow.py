"""A denoiser with a text condition: its int8 bodies follow the text, and a body that does not is refused."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from fewstep.calibration import calibrated_body
from fewstep.calibration.calibrate import calibrate
from fewstep.calibration.lowering.targets.cpu_x86 import CPU_X86
from fewstep.calibration.options import CalibrateOptions
from fewstep.export.export import export
from fewstep.export.export_options import ExportOptions
from fewstep.graph.graph import GROUP, Graph
from fewstep.measure.rollouts import nearness
from fewstep.plans.errors import UserError
from fewstep.runtime.backends import PROLOGUE, LoadedGraph
from fewstep.runtime.bundle.manifest import Difference
from tests.calibration.every_target import change_target
from zoo.members import BY_NAME

MEMBER = BY_NAME["text_unet_flow"]
TARGETS = ("cpu-x86", "cpu-arm", "tensorrt")
DEAF = 6  # the first step that hardly hears the text


def deaf(graph: Graph) -> LoadedGraph:
    """A body with a tenth of the text's keys and values at the last steps. Its prologue, which makes them, is exact."""
    network = CPU_X86.runs(graph)
    if graph.name == PROLOGUE:
        return network
    of_text = {value.name for value in graph.inputs if 8 in value.shape[1:] and len(value.shape) == 4}
    assert len(of_text) == 10  # five layers

    def run(feeds):  # type: ignore[no-untyped-def]
        part = np.float32(0.1 if feeds[GROUP][0] >= DEAF else 1)
        return network({name: value * part if name in of_text else value for name, value in feeds.items()})

    return run


@pytest.mark.slow
def test_a_body_that_hardly_hears_the_text_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its PSNR looks fair. The bodies of all targets follow the text."""
    bundle, captions = tmp_path / "bundle", tmp_path / "captions.npz"
    np.savez(captions, **MEMBER.rows(64, seed=0))  # type: ignore[arg-type]
    export(ExportOptions(MEMBER.source, bundle, verify="quick"))
    options = CalibrateOptions(
        bundle, MEMBER.plan, TARGETS, trajectories=8, guidance=MEMBER.guidance, conditions=captions
    )
    for body in calibrate(options).manifest.bodies.values():
        for trial in body.trials:
            assert trial.psnr > 35
            for each in (trial.guidance, trial.condition):
                assert each is not None and each.gain == pytest.approx(1, abs=0.05) and each.ratio > 1
    change_target(monkeypatch, "cpu-x86", runs=deaf)
    options = replace(options, target=("cpu-x86",))
    with pytest.raises(UserError, match="int8 for cpu-x86 loses the direction of guidance: 0.0"):
        calibrate(options)
    monkeypatch.setattr(calibrated_body, "is_lost", lambda difference: False)
    monkeypatch.setattr(nearness, "LEAST_SNR", 0.0)  # its signal is 14 dB above the error
    (trial,) = calibrate(options).manifest.bodies["int8-cpu-x86"].trials
    assert trial.psnr > 25
    assert isinstance(trial.condition, Difference) and trial.condition.gain < 0.1
