"""A policy written as a module, exported, against a plain torch loop with the same noise; and specs of policies."""

from pathlib import Path

import numpy as np
import pytest
import torch

import fewstep.runtime
from fewstep.export import Condition, Policy, ScheduleSpec, Spec
from fewstep.export.export import ExportOptions, export
from fewstep.export.sources.python_file import load_python_file
from fewstep.plans import noise
from fewstep.plans.errors import UserError
from fewstep.runtime.execute import Hold
from tests.families import flow_policy

SEEDS = [3, 4]


@pytest.mark.slow
def test_a_flow_policy_samples_as_its_euler_loop_and_keeps_its_order_of_axes(tmp_path: Path) -> None:
    source = f"{flow_policy.__file__}:make"
    export(ExportOptions(source, tmp_path / "bundle"))
    module = load_python_file(source).module.eval()
    camera = np.random.default_rng(0).integers(0, 256, (2, 3, 32, 32)).astype(np.uint8)
    with fewstep.runtime.load(tmp_path / "bundle") as sampler, torch.no_grad():
        manifest = sampler.bundle.manifest
        assert manifest.conditioner is not None and [each.name for each in manifest.conditioner.inputs] == ["camera"]
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


RHYTHM = {"observations": 3, "first": 0, "actions": 4}


def spec(*shapes: tuple[int, ...], **rhythm: object) -> Spec:
    conditions = tuple(
        Condition(f"seen{number}", f"seen{number}", shape, "float32", typical=(-1.0, 1.0))
        for number, shape in enumerate(shapes)
    )
    policy = Policy(**{**RHYTHM, **rhythm})  # type: ignore[arg-type]
    return Spec("policy", (8, 3), conditions, "sample", ScheduleSpec("cosine", timesteps=100), policy=policy)


@pytest.mark.parametrize("shapes", [[(2, 6)], [(2, 6), (6, 3, 4, 4)], [(2, 6), ()]])
def test_observations_that_no_condition_can_hold_are_refused(shapes: list[tuple[int, ...]]) -> None:
    with pytest.raises(UserError, match=r"no condition has 3 observations along its first axis: 'seen0' \[2, 6\]"):
        spec(*shapes)


@pytest.mark.parametrize("shapes", [[(3, 6)], [(3, 6), (2,)], [(18,)], [], [()]])
def test_observations_may_be_stacked_in_one_row_or_in_x(shapes: list[tuple[int, ...]]) -> None:
    assert len(spec(*shapes).conditions) == len(shapes)
    assert len(spec((4, 5), observations=1).conditions) == 1  # one observation need not be stacked


@pytest.mark.parametrize(
    ("discrete", "said"),
    [([2], "Expected `dict`, got `tuple`"), ({2: 1.0}, "Expected `tuple`, got `float`")],
)
def test_discrete_places_are_a_dict_of_values(discrete: object, said: str) -> None:
    with pytest.raises(UserError, match=rf"{said}.*policy\.discrete.*discrete={{PLACE: \(VALUE, VALUE\)}}"):
        spec((3, 6), discrete=discrete)
