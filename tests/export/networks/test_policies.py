"""A policy that is written as a module, exported, and compared with a torch loop on the same noise."""

from pathlib import Path

import numpy as np
import pytest
import torch

import fewstep.runtime
from fewstep.export.export import export
from fewstep.export.export_options import ExportOptions
from fewstep.export.sources.python_file import load_python_file
from fewstep.plans import noise
from fewstep.runtime.sampling.execute import Hold
from tests.families.policies import flow_policy

SEEDS = [3, 4]


@pytest.mark.slow
def test_a_flow_policy_samples_as_its_euler_loop_and_keeps_its_order_of_axes(tmp_path: Path) -> None:
    source = f"{flow_policy.__file__}:make"
    export(ExportOptions(source, tmp_path / "bundle"))
    module = load_python_file(source).module.eval()
    camera = np.random.default_rng(0).integers(0, 256, (2, 3, 32, 32)).astype(np.uint8)
    with fewstep.runtime.load(tmp_path / "bundle") as sampler, torch.no_grad():
        manifest = sampler.bundle.manifest
        assert manifest.conditioner is not None and [port.name for port in manifest.conditioner.inputs] == ["camera"]
        found = sampler.sample("euler:5@trailing", SEEDS, {"camera": camera})
        x = torch.from_numpy(np.stack([noise.normal(seed, 0, manifest.x_shape) for seed in SEEDS]))
        times = torch.linspace(1, 0, 6)
        for now, later in zip(times, times[1:], strict=False):  # x_t = (1 - t) x0 + t eps, so dx/dt = eps - x0
            x = x + (later - now) * module(x, now.expand(2), torch.from_numpy(camera))
        assert found.shape == (2, 4, 8) and np.abs(found - x.numpy()).max() < 1e-3
        in_units = sampler.to_units(found)
        np.testing.assert_allclose(in_units[:, :3], found[:, :3] / 2, rtol=1e-6)
        np.testing.assert_allclose(in_units[:, 3], 0.04 * found[:, 3] + 0.04, rtol=1e-5)
        grip = np.zeros((4, 8), np.float32)
        grip[3, 0] = 1.0  # the first gripper position is decided: 0.08 m
        held = sampler.sample(
            "euler:5@trailing", SEEDS, {"camera": camera}, hold=Hold(sampler.from_units(0.08 * grip), grip)
        )
        np.testing.assert_allclose(sampler.to_units(held)[:, 3, 0], 0.08, rtol=1e-5)
