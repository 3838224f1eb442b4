"""Sampled sound as files: each is the wave of its sample."""

import wave
from pathlib import Path

import numpy as np
import pytest
from torch import Tensor, nn

from fewstep.export import Condition, ScheduleSpec, Spec
from fewstep.export.export import export
from fewstep.export.export_options import ExportOptions
from fewstep.runtime import load
from fewstep.runtime.kinds.sound import Spectrogram
from fewstep.runtime.spectrogram import decode, sample_count
from tests.examples.conftest import Example

SOUND = Spectrogram(rate=8000, n_fft=30, hop=15, exponent=0.5, factor=1.0)


class Offset(nn.Module):
    """The velocity of noise towards silence, with an offset for each language."""

    def forward(self, x: Tensor, time: Tensor, language: Tensor) -> Tensor:
        return x * (time / 1000)[:, None, None, None] + language[:, None, None, None].float()


def make() -> tuple[nn.Module, Spec]:
    language = Condition("language", input="language", low=0, high=2)
    return Offset().eval(), Spec("tiny", (2, 16, 8), (language,), "flow", ScheduleSpec("flow"), spectrogram=SOUND)


@pytest.mark.slow
def test_a_file_has_the_wave_of_its_sample(tmp_path: Path, example: Example) -> None:
    export(ExportOptions(f"{__file__}:make", tmp_path / "bundle", verify="quick"))
    _, printed = example("sound.py", tmp_path / "bundle", tmp_path / "waves", "ddim:2")
    assert "8 files in" in printed and "0.01 s each" in printed
    with load(tmp_path / "bundle") as sampler:
        x = sampler.sample("ddim:2", [5], {"language": np.array([2])})
    with wave.open(str(tmp_path / "waves" / "5.wav"), "rb") as file:
        assert (file.getframerate(), file.getnframes()) == (8000, sample_count(SOUND, 8))
        written = np.frombuffer(file.readframes(105), "<i2")
    expected = (decode(SOUND, x[0], 105) * 32768).round().clip(-32768, 32767)
    assert np.abs(written - expected).max() <= 1
