"""Samples of a self-conditioned network equal those of its codebase's own sampler."""

from pathlib import Path
from unittest import mock

import numpy as np
import pytest
import torch

import fewstep.runtime
from fewstep.export.export import export
from fewstep.export.export_options import ExportOptions
from fewstep.plans import noise
from fewstep.plans.shaping import Clip
from tests.export.codebases import networks

pytest.importorskip("ema_pytorch", reason="codebases of others are not installed: .ci/codebases.txt")
pytestmark = pytest.mark.slow

SEEDS, SHAPE, STEPS = [0, 1], (3, networks.SIZE, networks.SIZE), 5


def ddim_samples() -> np.ndarray:
    """`GaussianDiffusion.ddim_sample` of denoising-diffusion-pytorch, which clips x0, from the noise of the seeds."""
    network = networks.SelfConditioned().eval().network
    with networks.stand_in_for("torchvision"):
        from denoising_diffusion_pytorch import GaussianDiffusion
    diffusion = GaussianDiffusion(
        network,
        image_size=networks.SIZE,
        timesteps=1000,
        sampling_timesteps=STEPS,
        objective="pred_v",
        beta_schedule="cosine",
        auto_normalize=False,
    )
    start = torch.from_numpy(noise.normal_batch(SEEDS, 0, SHAPE))
    with mock.patch.object(torch, "randn", lambda *_, **__: start):
        return diffusion.ddim_sample((len(SEEDS), *SHAPE)).numpy()


def test_samples_of_denoising_diffusion_pytorch(tmp_path: Path) -> None:
    export(ExportOptions(f"{networks.__file__}:self_conditioned_unet", tmp_path / "bundle", verify="quick"))
    with fewstep.runtime.load(tmp_path / "bundle") as sampler:
        plan = sampler.compile(f"ddim:{STEPS}@trailing", shaping=Clip(-1, 1))
        found = sampler.sample(plan, SEEDS)
    assert any(step.estimate for step in plan.steps)
    expected = ddim_samples()
    assert np.abs(expected).max() <= 1 and expected.std() > 0.1
    np.testing.assert_allclose(found, expected, atol=1e-3)
