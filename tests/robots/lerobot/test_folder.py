"""Policies in LeRobot's folders, compared with loops over diffusers' schedulers, as LeRobot runs them."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from safetensors.torch import load_file, save_file
from torch import Tensor

import fewstep.runtime
from fewstep.export.export import export
from fewstep.export.export_options import ExportOptions
from fewstep.export.load_source import load_source
from fewstep.plans import noise
from fewstep.robots.lerobot.folder import load_lerobot_folder
from fewstep.robots.lerobot.normalisation import RENAMED, read_robot_names
from fewstep.robots.networks.lerobot import LeRobotDiffusion
from fewstep.runtime.bundle.manifest import Policy
from tests.refusals import refuses
from tests.robots.lerobot.policies import ACTIONS, HORIZON, NUMBERS, OBSERVATIONS, PIXELS, STATE, write_policy

Observations = dict[str, NDArray[Any]]


def export_small(folder: Path, **how: Any) -> tuple[Path, LeRobotDiffusion]:
    """Export with a U-Net of one level, since the tests are about the parts around it."""
    network = write_policy(folder / "policy", down_dims=[16], **how)
    export(ExportOptions(str(folder / "policy"), folder / "bundle"))
    return folder / "bundle", network


@pytest.fixture(scope="module")
def low(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, LeRobotDiffusion]:
    """A policy that observes numbers only."""
    return export_small(tmp_path_factory.mktemp("low"), environment=2)


@pytest.fixture(scope="module")
def seeing(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, LeRobotDiffusion]:
    """A policy with two cameras, which one encoder serves, trained with DDPM."""
    return export_small(
        tmp_path_factory.mktemp("seeing"),
        cameras=2,
        crop_shape=[32, 41],
        use_separate_rgb_encoder_per_camera=False,
        noise_scheduler_type="DDPM",
        prediction_type="sample",
    )


def test_a_checkpoint_has_the_name_of_its_run(tmp_path: Path) -> None:
    run, plain = tmp_path / "push", tmp_path / "policy"
    write_policy(run / "checkpoints" / "000200" / "pretrained_model", environment=2, down_dims=[16])
    (run / "checkpoints" / "last").symlink_to("000200")
    write_policy(plain, environment=2, down_dims=[16])
    last = run / "checkpoints" / "last"
    names = [load_lerobot_folder(folder).spec.name for folder in (last, last / "pretrained_model", plain)]
    assert names == ["push", "push", "policy"]


def raw_observations(samples: int, cameras: int = 0, environment: int = 0) -> Observations:
    """Return raw observations, as a robot measures them."""
    rng = np.random.default_rng(0)
    low, high = (NUMBERS["observation.state"][end].numpy() for end in ("min", "max"))
    seen: Observations = {
        "observation.state": rng.uniform(low, high, (samples, OBSERVATIONS, STATE)).astype(np.float32)
    }
    for camera in range(cameras):
        pixels = rng.integers(0, 256, (samples, OBSERVATIONS, 3, 40, 48))
        seen[f"observation.images.cam{camera}"] = pixels.astype(np.uint8)
    if environment:
        seen["observation.environment_state"] = rng.standard_normal((samples, OBSERVATIONS, environment)).astype("f4")
    return seen


def prediction(network: LeRobotDiffusion, x: Tensor, time: Tensor, seen: Observations) -> Tensor:
    """Return the network's output for observations that are normalised as in LeRobot's processor: [min, max] -> [-1,
    1].
    """
    low, high = NUMBERS["observation.state"]["min"], NUMBERS["observation.state"]["max"]
    span = torch.where(high == low, torch.tensor(1e-8), high - low)
    state = 2 * (torch.from_numpy(seen["observation.state"]) - low) / span - 1
    pictures = [
        (torch.from_numpy(value).float() / 255 - PIXELS["mean"]) / (PIXELS["std"] + 1e-8)
        for name, value in seen.items()
        if "images" in name
    ]
    environment = seen.get("observation.environment_state")
    with torch.no_grad():
        return network(x, time.float(), state, pictures, None if environment is None else torch.from_numpy(environment))


def loop(scheduler: Any, network: LeRobotDiffusion, seen: Observations, steps: int, seeds: list[int]) -> Tensor:
    """LeRobot's sampling, from the noise that the sampler draws."""
    x = torch.from_numpy(np.stack([noise.normal(seed, 0, (HORIZON, ACTIONS)) for seed in seeds]))
    scheduler.set_timesteps(steps)
    for t in scheduler.timesteps:
        x = scheduler.step(prediction(network, x, t.expand(len(seeds)), seen), t, x).prev_sample
    return x


def test_samples_are_those_of_the_ddim_loop(low: tuple[Path, LeRobotDiffusion]) -> None:
    from diffusers import DDIMScheduler

    bundle, network = low
    scheduler = DDIMScheduler(num_train_timesteps=100, beta_schedule="squaredcos_cap_v2", clip_sample=True)
    seen, seeds = raw_observations(2, environment=2), [3, 4]
    expected = loop(scheduler, network, seen, 10, seeds).numpy()
    with fewstep.runtime.load(bundle) as sampler:
        found = sampler.sample("scheduler:10", seeds, seen)
    assert found.shape == (2, HORIZON, ACTIONS) and np.abs(found - expected).max() < 1e-3


@pytest.mark.slow
def test_samples_with_cameras_are_those_of_the_ddpm_loop(
    seeing: tuple[Path, LeRobotDiffusion], monkeypatch: pytest.MonkeyPatch
) -> None:
    from diffusers import DDPMScheduler
    from diffusers.schedulers import scheduling_ddpm

    bundle, network = seeing
    drawn = (torch.from_numpy(noise.normal(3, number, (HORIZON, ACTIONS)))[None] for number in range(1, 100))
    monkeypatch.setattr(scheduling_ddpm, "randn_tensor", lambda *_, **__: next(drawn))
    scheduler = DDPMScheduler(
        num_train_timesteps=100, beta_schedule="squaredcos_cap_v2", clip_sample=True, prediction_type="sample"
    )
    seen = raw_observations(1, cameras=2)
    expected = loop(scheduler, network, seen, 5, [3]).numpy()
    with fewstep.runtime.load(bundle) as sampler:
        found = sampler.sample("scheduler:5", [3], seen)
    assert np.abs(found - expected).max() < 1e-3


@pytest.mark.slow
def test_the_cameras_are_encoded_once_whatever_the_number_of_steps(seeing: tuple[Path, LeRobotDiffusion]) -> None:
    seen, rows = raw_observations(1, cameras=2), []
    with fewstep.runtime.load(seeing[0]) as sampler:
        conditioner = sampler.network().conditioner
        assert conditioner is not None

        def count_call(feeds: Any) -> Any:
            rows.append(len(feeds["observation_images_cam0"]))
            return conditioner(feeds)

        watched = sampler.with_network_parts(conditioner=count_call)
        both = {name: np.concatenate([value, value]) for name, value in seen.items()}
        two = watched.sample("ddim:8", [5, 6], both)
        assert rows == [1]  # both samples see the same
        np.testing.assert_allclose(two[:1], sampler.sample("ddim:8", [5], seen), atol=1e-5)


def test_the_manifest_says_what_goes_in_and_what_comes_out(low: tuple[Path, LeRobotDiffusion]) -> None:
    with fewstep.runtime.load(low[0]) as sampler:
        manifest = sampler.bundle.manifest
        state, environment = manifest.conditions
        assert manifest.x_shape == (HORIZON, ACTIONS)
        assert (state.name, state.shape, state.dtype) == ("observation.state", (OBSERVATIONS, STATE), "float32")
        assert state.typical == ((-1.5, 20.0, 0.5), (2.5, 90.0, 0.5)) and environment.shape == (OBSERVATIONS, 2)
        assert manifest.policy == Policy(OBSERVATIONS, OBSERVATIONS - 1, 4)
        low_end, high_end = NUMBERS["action"]["min"].numpy(), NUMBERS["action"]["max"].numpy()
        ends = np.array([[-1.0], [1.0]])[:, :, None] * np.ones((2, HORIZON, ACTIONS))
        np.testing.assert_allclose(sampler.to_units(ends)[:, 0], [low_end, high_end], rtol=1e-6, atol=1e-8)


def test_weights_have_the_names_that_lerobot_gives_them(tmp_path: Path) -> None:
    write_policy(tmp_path / "policy", cameras=1)
    names = {name for name in load_file(tmp_path / "policy" / "model.safetensors") if "num_batches" not in name}
    unet = {name.removeprefix("diffusion.unet.") for name in names if name.startswith("diffusion.unet.")}
    assert unet == set(unet_names())
    encoder = {name.removeprefix("diffusion.rgb_encoder.0.") for name in names if "rgb_encoder" in name}
    heads = {"pool.nets.weight", "pool.nets.bias", "pool.pos_grid", "out.weight", "out.bias"}
    backbone = {name.removeprefix("backbone.") for name in encoder - heads}
    assert backbone == set(backbone_names()) and len(unet) + len(encoder) == len(names)


def unet_names() -> Iterator[str]:
    def both(name: str) -> Iterator[str]:
        yield from (f"{name}.weight", f"{name}.bias")

    for layer in (1, 3):
        yield from both(f"diffusion_step_encoder.{layer}")
    blocks = {"down_modules.0.0": True, "down_modules.0.1": False, "down_modules.1.0": True, "down_modules.1.1": False}
    blocks |= {"mid_modules.0": False, "mid_modules.1": False, "up_modules.0.0": True, "up_modules.0.1": False}
    for block, changes_width in blocks.items():
        for layer in ("conv1.block.0", "conv1.block.1", "conv2.block.0", "conv2.block.1", "cond_encoder.1"):
            yield from both(f"{block}.{layer}")
        if changes_width:
            yield from both(f"{block}.residual_conv")
    for layer_name in ("down_modules.0.2", "up_modules.0.2", "final_conv.0.block.0", "final_conv.0.block.1"):
        yield from both(layer_name)
    yield from both("final_conv.1")


def backbone_names() -> Iterator[str]:
    """Return the names of ResNet-18 with GroupNorm, with numbered layers."""
    yield from ("0.weight", "1.weight", "1.bias")
    for level in range(4, 8):
        for block in range(2):
            for number in (1, 2):
                name = f"{level}.{block}"
                yield from (f"{name}.conv{number}.weight", f"{name}.bn{number}.weight", f"{name}.bn{number}.bias")
            if level > 4 and block == 0:
                yield from (f"{name}.downsample.0.weight", f"{name}.downsample.1.weight", f"{name}.downsample.1.bias")


def test_weights_in_whole_numbers_are_refused(tmp_path: Path) -> None:
    write_policy(tmp_path / "policy", environment=2)
    file = tmp_path / "policy" / "model.safetensors"
    tensors = load_file(file)
    name = next(name for name in tensors if name.endswith("final_conv.1.weight"))
    save_file(tensors | {name: (100 * tensors[name]).char()}, file)
    with refuses(("final_conv.1.weight", "int8")):
        load_lerobot_folder(tmp_path / "policy")


def test_prefixes_of_wrappers_are_removed(tmp_path: Path) -> None:
    write_policy(tmp_path / "policy", environment=2)
    expected = load_lerobot_folder(tmp_path / "policy").module.state_dict()
    file = tmp_path / "policy" / "model.safetensors"
    save_file({f"module._orig_mod.{name}": tensor for name, tensor in load_file(file).items()}, file)
    found = load_lerobot_folder(tmp_path / "policy").module.state_dict()
    assert all(torch.equal(found[name], expected[name]) for name in expected)


def test_statistics_among_the_weights_serve_as_those_of_processors_do(tmp_path: Path) -> None:
    write_policy(tmp_path / "new", environment=2)
    write_policy(tmp_path / "old", environment=2, in_weights=True)
    new, old = (load_lerobot_folder(tmp_path / name) for name in ("new", "old"))
    seen = [torch.from_numpy(value) for value in raw_observations(2, environment=2).values()]
    x, time = torch.randn(2, HORIZON, ACTIONS), torch.tensor([0.0, 99.0])
    with torch.no_grad():
        torch.testing.assert_close(new.module.eval()(x, time, *seen), old.module.eval()(x, time, *seen))
    assert new.spec.units == old.spec.units
    assert new.spec.conditions[0].typical == old.spec.conditions[0].typical


def test_a_training_checkpoint_is_read_too(tmp_path: Path) -> None:
    write_policy(tmp_path / "last" / "pretrained_model")
    assert load_source(str(tmp_path / "last")).label == "last"


def test_mean_and_deviation_and_what_is_not_normalised(tmp_path: Path) -> None:
    folder = tmp_path / "policy"
    write_policy(folder, normalization_mapping={"STATE": "MEAN_STD", "ACTION": "IDENTITY"})
    state = folder / "policy_preprocessor_step_3_normalizer_processor.safetensors"
    numbers = {"mean": torch.tensor([0.5, 50.0, 0.0]), "std": torch.tensor([2.0, 10.0, 0.0])}
    save_file({f"observation.state.{name}": tensor for name, tensor in numbers.items()}, state)
    source = load_lerobot_folder(folder)
    normalised = source.module.normalise[0](torch.tensor([2.5, 40.0, 0.1]))  # type: ignore[index,operator]
    assert normalised.tolist() == pytest.approx([1.0, -1.0, 0.0])  # the last never changed
    units = source.spec.units
    assert units is not None and (units.scale, units.shift) == ((1.0, 1.0), (0.0, 0.0))
    assert source.spec.conditions[0].typical == ((-3.5, 30.0, 0.0), (4.5, 70.0, 0.0))


@pytest.mark.parametrize(("asked", "executed"), [(7, 7), (8, 7), (4, 4)])
def test_as_many_actions_are_executed_as_lerobot_slices(
    asked: int, executed: int, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """A sequence of 8 actions begins one observation earlier: LeRobot takes [1 : 1 + n_action_steps] of it."""
    write_policy(tmp_path / "policy", down_dims=[16], n_action_steps=asked)
    assert load_lerobot_folder(tmp_path / "policy").spec.policy == Policy(OBSERVATIONS, OBSERVATIONS - 1, executed)
    assert ("n_action_steps is 8; as in LeRobot, only the 7 actions" in caplog.text) == (asked != executed)


def renaming(folder: Path, *maps: Any) -> Path:
    steps = [{"registry_name": RENAMED, "config": {"rename_map": each}} for each in maps]
    (folder / "policy_preprocessor.json").write_text(json.dumps({"steps": steps}))
    return folder


def test_steps_rename_one_after_the_other(tmp_path: Path) -> None:
    assert read_robot_names(renaming(tmp_path, {"a": "b"}, {"b": "c"}), ["c"]) == {"c": "a"}
    assert read_robot_names(renaming(tmp_path, {"a": "b", "b": "a"}), ["a", "b"]) == {"a": "b", "b": "a"}
