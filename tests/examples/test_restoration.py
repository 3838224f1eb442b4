"""Restoration U-Nets from module to int8: their inputs, and the steps of ResShift's posterior."""

import re
from math import sqrt
from pathlib import Path

import numpy as np
import pytest
import torch

from fewstep.plans import noise
from fewstep.runtime import load
from tests.examples.conftest import Example

pytestmark = pytest.mark.slow


@torch.no_grad()
def resshift(network: torch.nn.Module, y: np.ndarray, draws: list[np.ndarray]) -> np.ndarray:
    """Equation 7 of Yue et al. 2023 over the four timesteps: kappa 2, sqrt(eta) from 0.02 to 0.99 to the power 0.3."""
    way = (np.arange(4) / 3) ** 0.3
    eta, zs = (0.02 * (0.99 / 0.02) ** way) ** 2, iter(draws)
    x = y + 2 * sqrt(eta[3]) * next(zs)
    for t in (3, 2, 1, 0):
        seen = torch.from_numpy(x / sqrt(4 * eta[t] + 1))
        x0 = network(seen, torch.full((len(x),), float(t), dtype=torch.float64), torch.from_numpy(y)).numpy()
        if t == 0:
            return x0
        former, alpha = eta[t - 1], eta[t] - eta[t - 1]
        x = former / eta[t] * x + alpha / eta[t] * x0 + 2 * sqrt(former / eta[t] * alpha) * next(zs)
    raise AssertionError


def test_restoration(tmp_path: Path, example: Example, monkeypatch: pytest.MonkeyPatch) -> None:
    own, printed = example("restoration.py", tmp_path)
    assert "in resshift:4" in printed and "in rddm:5" in printed
    assert min(float(each) for each in re.findall(r"at (\S+) dB", printed)) > 35

    y = own["blur_noise"](2)
    draws = [np.stack([noise.normal(seed, number, y.shape[1:]) for seed in (0, 1)]) for number in range(4)]
    expected = resshift(own["make_resshift"]()[0].eval().double(), y.astype(float), draws)
    with load(tmp_path / "make_resshift") as sampler:
        made = sampler.sample("resshift:4", seeds=[0, 1], condition={"y": y})
    assert made == pytest.approx(expected, abs=1e-4 * np.abs(expected).max())

    whole = own["blur_noise"](1)[0]
    large = np.tile(whole, (1, 4, 3))
    np.save(tmp_path / "large.npy", large)
    arguments = [tmp_path / "make_resshift", tmp_path / "large.npy", tmp_path / "restored.npy"]
    monkeypatch.setattr("fewstep.runtime.machine.memory.peak_bytes", lambda: None)  # as on a system without /proc
    said = "[3, 64, 48] in windows of [3, 16, 16], peak memory unknown"
    assert said in example("large_restoration.py", *arguments)[1]
    restored = np.load(tmp_path / "restored.npy")
    assert restored.shape == large.shape and np.corrcoef(restored.ravel(), large.ravel())[0, 1] > 0.5
