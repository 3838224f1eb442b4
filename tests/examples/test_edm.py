"""An EDM network in both its forms, sampled like EDM's Algorithm 1 and k-diffusion's DPM-Solver++(2M)."""

import re
from collections.abc import Callable
from itertools import pairwise
from math import expm1, log
from pathlib import Path

import numpy as np
import pytest
import torch

from fewstep.plans import noise
from fewstep.runtime import load
from tests.examples.conftest import Example

pytestmark = pytest.mark.slow

STEPS = 8


def dpmpp_2m(denoiser: Callable[[torch.Tensor, float], torch.Tensor], z: torch.Tensor, sigmas: list[float]):
    """Algorithm 2 of Lu et al. 2022 (arXiv 2211.01095) for alpha = 1, with a first-order step to the clean end."""
    x, former = z * sigmas[0], None
    for i, (s, t) in enumerate(pairwise([*sigmas, 0.0])):
        x0 = denoiser(x, s)
        if t == 0:
            return x0
        h, d = log(s / t), x0
        if former is not None:
            r = log(sigmas[i - 1] / s) / h
            d = (1 + 1 / (2 * r)) * x0 - 1 / (2 * r) * former
        x, former = t / s * x - expm1(-h) * d, x0
    raise AssertionError


def test_an_edm_network(tmp_path: Path, example: Example) -> None:
    own, printed = example("edm.py", tmp_path)
    differences = re.findall(r"(\S+) from Algorithm 1", printed)
    assert len(differences) == 2 and max(map(float, differences)) < 1e-4

    low, high = own["SIGMA_MIN"] ** (1 / 7), own["SIGMA_MAX"] ** (1 / 7)
    sigmas = [float(each) for each in np.linspace(high, low, STEPS) ** 7]
    z = torch.from_numpy(np.stack([noise.normal(seed, 0, own["SHAPE"]) for seed in (0, 1)])).double()
    denoiser, label = own["make_preconditioned"]()[0].eval().double(), torch.tensor([4, 9])
    with torch.no_grad():
        expected = dpmpp_2m(lambda x, s: denoiser(x, torch.full((2,), s, dtype=torch.float64), label), z, sigmas)
    for form in ("make", "make_preconditioned"):
        with load(tmp_path / form) as sampler:
            made = sampler.sample(f"dpmpp_2m:{STEPS}@karras", [0, 1], condition={"class": label.numpy()})
        assert made == pytest.approx(expected.numpy(), abs=1e-4 * float(expected.abs().max()))
