"""Exports with weights in 8 or 4 bits, without float32."""

import logging
import re
from pathlib import Path

import numpy as np
import pytest

from fewstep.cli.main import main
from fewstep.export.export import export
from fewstep.export.export_options import ExportOptions, ExportPrecision
from fewstep.graph import widened
from fewstep.graph.files import io, weights
from fewstep.graph.graph import Array
from fewstep.plans.errors import UserError
from fewstep.report import integrity
from fewstep.runtime import load
from tests.export.networks import half_denoiser

SOURCE = f"{half_denoiser.__file__}:make"
WEIGHTS = 400 * 48 + 48 * 48 + 2 * 4 * 48 * 48 + 2 * 16 * 48


@pytest.fixture
def written(monkeypatch: pytest.MonkeyPatch) -> list[Array]:
    """Weights of half a page stay in 16 bits, all weights go to files, and each array that is written is listed."""
    arrays = list[Array]()
    monkeypatch.setattr(widened, "LEAST_BYTES", 2048)
    monkeypatch.setattr(io, "EXTERNAL_ABOVE", 0)
    write = weights.write

    def listed(stream: object, given: object) -> list[int]:
        arrays.extend(given)  # type: ignore[arg-type]
        return write(stream, given)  # type: ignore[arg-type]

    monkeypatch.setattr(weights, "write", listed)
    return arrays


def make(bundle: Path, precision: ExportPrecision) -> None:
    export(ExportOptions(SOURCE, bundle, precision=precision, verify="quick"))


@pytest.mark.parametrize("precision, share", [("int4", 0.8), ("int8", 1.15)])
def test_no_float32_is_written(
    precision: ExportPrecision, share: float, tmp_path: Path, written: list[Array], caplog: pytest.LogCaptureFixture
) -> None:
    make(tmp_path / "b", precision)
    floats = sum(array.nbytes for array in written if array.dtype == np.float32)
    assert floats < 4 * 0.05 * WEIGHTS  # scales
    assert sum(array.nbytes for array in written) < share * WEIGHTS
    assert list(load(tmp_path / "b").bundle.manifest.bodies) == [f"{precision}-weights"]
    assert re.search(
        rf"rounded to the nearest {precision}; .* dB above their error at time 999, and .* dB at time ", caplog.text
    )
    assert integrity.verify(integrity.VerifyOptions(tmp_path / "b")).is_whole


def test_a_bundle_runs_in_the_precision_that_it_has(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    make(tmp_path / "b", "int8")
    make(tmp_path / "float32", "float32")
    with caplog.at_level(logging.WARNING):
        sampler = load(tmp_path / "b")
    assert sampler.body.precision == "int8-weights" and "has no float32 body: int8-weights is run" in caplog.text
    samples = [each.sample("ddim:2", (1, 2), {"label": [3, 3]}) for each in (sampler, load(tmp_path / "float32"))]
    assert 1e-4 < np.abs(samples[0] - samples[1]).max() < 0.1
    with pytest.raises(UserError, match="has no float32 body, only int8-weights"):
        load(tmp_path / "b", "float32")


def test_the_verdict_says_that_no_sample_was_compared(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["export", SOURCE, "-o", str(tmp_path / "b"), "--verify", "quick", "--precision", "int8"]) == 0
    shown = " ".join(capsys.readouterr().out.split())
    assert "its samples are not judged: weights were rounded to the nearest of 8 bits" in shown
    assert "fewstep calibrate --target int8-weights" in shown


def test_options_that_need_float_weights_are_refused(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="--cache needs float weights, and --precision int4 writes none"):
        export(ExportOptions(SOURCE, tmp_path / "b", precision="int4", cache="depth1"))
    with pytest.raises(UserError, match="--lora-slots needs float weights"):
        export(ExportOptions(SOURCE, tmp_path / "b", precision="int8", lora_slots="*"))
    assert not (tmp_path / "b").exists()
