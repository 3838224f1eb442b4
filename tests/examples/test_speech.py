"""Speech enhancement of a recording: the samples equal those of SGMSE+ in complex numbers."""

import math
import wave
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
import torch

from fewstep.plans import noise
from fewstep.runtime import load
from fewstep.runtime.spectrogram import encode
from tests.examples.conftest import Example

pytestmark = pytest.mark.slow

STEPS, SNR = 3, 0.5


def recording(file: Path) -> np.ndarray:
    with wave.open(str(file), "rb") as sound:
        return np.frombuffer(sound.readframes(sound.getnframes()), "<i2") / 32768


@torch.no_grad()
def sgmse(network: torch.nn.Module, y: np.ndarray, draws: list[np.ndarray], theta: float, low: float, high: float):
    """Algorithm 1 of Richter et al. 2023 in complex numbers, with noise of variance 1: annealed Langevin corrections
    and reverse diffusion, over times from 1 to 0.03, then the mean of the last step.
    """
    growth, zs = math.log(high / low), iter(draws)

    def score(x, t):
        parts = (torch.from_numpy(np.stack([each.real, each.imag], 1)) for each in (x, y))
        made = network(*parts, torch.full((len(x),), t, dtype=torch.float64)).numpy()
        return made[:, 0] + 1j * made[:, 1]

    def std(t):
        return low * math.sqrt((math.exp(2 * growth * t) - math.exp(-2 * theta * t)) * growth / (theta + growth))

    times = [*np.linspace(1, 0.03, STEPS), 0.0]
    x = y + std(1.0) * next(zs)
    for s, t in pairwise(times):
        step = 2 * (SNR * std(s)) ** 2
        x = x + step * score(x, s)
        x = x + math.sqrt(2 * step) * next(zs)
        g = low * (high / low) ** s * math.sqrt(2 * growth)
        x = x - theta * (y - x) * (s - t) + g**2 * (s - t) * score(x, s)
        if t > 0:
            x = x + g * math.sqrt(s - t) * next(zs)
    return x


def test_speech(tmp_path: Path, example: Example) -> None:
    own, _ = example("speech.py", tmp_path)
    noisy, enhanced = tmp_path / "noisy.wav", tmp_path / "enhanced.wav"
    given = tmp_path / "bundle", noisy, enhanced, "dpmpp_2m:4"
    assert "1.50 s in 2 pieces of 128 frames" in example("enhance.py", *given)[1]
    before, after = recording(noisy), recording(enhanced)
    assert len(after) == len(before) and np.corrcoef(before, after)[0, 1] > 0.9

    assert "1.50 s as 192 frames in windows of 64" in example("long_audio.py", *given)[1]
    assert np.corrcoef(before, recording(enhanced))[0, 1] > 0.9

    sound, shape = own["SOUND"], own["SHAPE"]
    y = encode(sound, np.stack([before[:8064], before[-8064:]]))
    draws = [np.stack([noise.normal(seed, number, shape) for seed in (0, 1)]) for number in range(2 * STEPS)]
    halves = [(draw[:, 0] + 1j * draw[:, 1]) * math.sqrt(0.5) for draw in draws]  # variance 1 in all
    network = own["make"]()[0].network.eval().double()
    constants = (own[name] for name in ("THETA", "SIGMA_MIN", "SIGMA_MAX"))
    expected = sgmse(network, (y[:, 0] + 1j * y[:, 1]).astype(complex), halves, *constants)
    with load(tmp_path / "bundle") as sampler:
        made = sampler.sample(f"sgmse:{STEPS}@linspace", seeds=[0, 1], condition={"y": y})
    difference = np.abs(made[:, 0] + 1j * made[:, 1] - expected)
    assert difference.max() < 1e-3 * np.abs(expected).max()
