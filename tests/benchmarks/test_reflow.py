"""The student of one and two steps: its losses, its pairs, and the shipped weights in int8."""

import sys
from math import exp
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

import benchmarks.reflow
from fewstep.calibration.calibrate import calibrate
from fewstep.calibration.options import CalibrateOptions
from fewstep.export.export import ExportOptions, export
from fewstep.measure.rollouts.metrics import psnr
from fewstep.models import ready
from fewstep.runtime import load

sys.path.append(benchmarks.reflow.__path__[0])
import pairs
import straight
import student


class Straight(nn.Module):
    """A flow that leads every noise to one sample."""

    def __init__(self, sample: torch.Tensor) -> None:
        super().__init__()
        self.sample = sample

    def forward(self, x: torch.Tensor, time: torch.Tensor, label: torch.Tensor) -> torch.Tensor:
        return (x - self.sample) * (straight.TIMESTEPS / time)[:, None, None, None]


def test_a_straight_flow_between_pairs_has_no_loss_in_either_stage() -> None:
    generator = torch.Generator().manual_seed(0)
    sample = torch.rand(1, 1, 28, 28, generator=generator)
    noise, label = torch.randn(8, 1, 28, 28, generator=generator), torch.zeros(8, dtype=torch.long)
    batch = noise, sample.expand(8, 1, 28, 28), label, generator
    for loss in (straight.straightened, student.distilled):
        assert loss(Straight(sample), *batch) < 1e-4
        away = loss(Straight(sample + 0.1), *batch)  # |d| is 2.8 where all pixels are 0.1 away
        assert 2.7 < away < 12 if loss is straight.straightened else abs(away - 2.8 + straight.HUBER) < 0.02


def test_times_are_u_shaped() -> None:
    times, a = straight.u_shaped(200_000, torch.Generator().manual_seed(0)), straight.STEEPNESS
    low = ((exp(0.1 * a) - 1) + (exp(a) - exp(0.9 * a))) / (exp(a) - 1) / 2  # the share below 0.1
    for is_there in (times < 0.1, times > 0.9):
        assert abs(is_there.float().mean() - low) < 0.004
    assert times.min() >= 0 and times.max() <= 1


def test_pairs_are_the_teachers_own_and_files_stay(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pairs, "CHUNK", 2)
    pairs.make(tmp_path, range(3, 4))
    np.save(tmp_path / "pairs-005.npy", np.zeros((2, 1, 28, 28), np.float16))
    pairs.make(tmp_path, range(5, 6))
    noise, samples, labels = pairs.read(tmp_path, "train")
    seeds = [pairs.FIRST_SEED + 6, pairs.FIRST_SEED + 7]
    with load(ready.fashion_mnist(), "int8") as teacher:
        own = teacher.sample(pairs.PLAN, seeds, {"class": [6, 7]}, pairs.GUIDANCE)
        start = next(iter(teacher.steps(pairs.PLAN, seeds, {"class": [6, 7]}, pairs.GUIDANCE))).u
    assert labels.tolist() == [6, 7, 0, 1] and samples[2:].abs().max() == 0
    assert np.abs(samples[:2].numpy() - own).max() < 2e-3 and np.abs(noise[:2].numpy() - start).max() < 1e-3


@pytest.mark.slow
def test_one_and_two_steps_in_int8_are_near_float32(tmp_path: Path) -> None:
    """And from noise two steps of 2-rectified flow++ are Euler's."""
    bundle, seeds = tmp_path / "student", range(32)
    export(ExportOptions(f"{student.__file__}:make", bundle))
    calibrate(CalibrateOptions(bundle, "ddim:2@trailing", target=("cpu-x86",), trajectories=16))
    label = {"class": [seed % 10 for seed in seeds]}
    with load(bundle) as exact, load(bundle, "int8") as rounded:
        for plan in ("ddim:1", "ddim:2@trailing"):
            near = psnr(rounded.sample(plan, seeds, label), exact.sample(plan, seeds, label))
            assert near.mean() > 44.0 and np.percentile(near, 5) > 40.0, plan
        two, own, flow = (exact.sample(plan, seeds, label) for plan in ("ddim:2@trailing", "ddim:2", "rfpp:2"))
    np.testing.assert_array_equal(two, own)  # the spec names the grid of its training
    np.testing.assert_allclose(two, flow, atol=1e-5)
