"""Tiny policies with random weights, in folders as LeRobot writes them, and changes of such folders."""

import json
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from safetensors.torch import load_file, save_file

from fewstep.robots.lerobot.normalisation import ABSOLUTE, RELATIVE
from fewstep.robots.networks.lerobot import LeRobotDiffusion, Vision
from fewstep.robots.networks.unet1d import ConditionalUnet1d
from tests.robots.lerobot.weights import weight

HERE = Path(__file__).parent
Record = Mapping[str, NDArray[Any]]
Change = Callable[[Path], None]  # of a policy's folder

STATE, ACTIONS, HORIZON, OBSERVATIONS = 3, 2, 8, 2
CONFIG: dict[str, Any] = {
    "type": "diffusion",
    "n_obs_steps": OBSERVATIONS,
    "horizon": HORIZON,
    "n_action_steps": 4,
    "normalization_mapping": {"VISUAL": "MEAN_STD", "STATE": "MIN_MAX", "ACTION": "MIN_MAX"},
    "input_features": {"observation.state": {"type": "STATE", "shape": [STATE]}},
    "output_features": {"action": {"type": "ACTION", "shape": [ACTIONS]}},
    "vision_backbone": "resnet18",
    "crop_shape": None,
    "use_group_norm": True,
    "spatial_softmax_num_keypoints": 4,
    "use_separate_rgb_encoder_per_camera": True,
    "down_dims": [16, 32],
    "kernel_size": 3,
    "n_groups": 8,
    "diffusion_step_embed_dim": 16,
    "use_film_scale_modulation": True,
    "noise_scheduler_type": "DDIM",
    "num_train_timesteps": 100,
    "beta_schedule": "squaredcos_cap_v2",
    "beta_start": 0.0001,
    "beta_end": 0.02,
    "prediction_type": "epsilon",
    "clip_sample": True,
    "clip_sample_range": 1.0,
    "num_inference_steps": None,
}
# As LeRobot's datasets have them; the last of the state never changes.
NUMBERS: dict[str, dict[str, torch.Tensor]] = {
    "observation.state": {"min": torch.tensor([-1.5, 20.0, 0.5]), "max": torch.tensor([2.5, 90.0, 0.5])},
    "observation.environment_state": {"min": torch.tensor([-3.0, 0.0]), "max": torch.tensor([1.0, 5.0])},
    "action": {"min": torch.tensor([-10.0, 0.0]), "max": torch.tensor([30.0, 0.04])},
}
PIXELS = {
    "mean": torch.tensor([0.5, 0.4, 0.3]).reshape(3, 1, 1),
    "std": torch.tensor([0.2, 0.25, 0.3]).reshape(3, 1, 1),
}


def write_policy(
    folder: Path,
    *,
    cameras: int = 0,
    size: tuple[int, int] = (40, 48),
    environment: int = 0,
    in_weights: bool = False,
    **changes: Any,
) -> LeRobotDiffusion:
    """Write a policy with random weights and return its network. `in_weights`: as before LeRobot had processors."""
    config = {**CONFIG, **changes}
    inputs = dict(config["input_features"])
    numbers = dict(NUMBERS)
    for camera in range(cameras):
        inputs[f"observation.images.cam{camera}"] = {"type": "VISUAL", "shape": [3, *size]}
        numbers[f"observation.images.cam{camera}"] = PIXELS
    if environment:
        inputs["observation.environment_state"] = {"type": "ENV", "shape": [environment]}
    config["input_features"] = inputs
    vision = None
    if cameras:
        vision = Vision(
            cameras,
            size,
            config["vision_backbone"],
            config.get("resize_shape"),
            config["crop_shape"],
            config["use_group_norm"],
            config["spatial_softmax_num_keypoints"],
            config["use_separate_rgb_encoder_per_camera"],
        )
    unet = partial(
        ConditionalUnet1d,
        widths=config["down_dims"],
        kernel=config["kernel_size"],
        time_width=config["diffusion_step_embed_dim"],
        scales=True,
    )
    torch.manual_seed(0)
    network = LeRobotDiffusion(ACTIONS, config["n_obs_steps"], STATE, vision, environment, unet).eval()
    weights = {f"diffusion.{name}": weight for name, weight in network.state_dict().items()}
    folder.mkdir(parents=True)
    if in_weights:
        for prefix in ("normalize_inputs", "normalize_targets", "unnormalize_outputs"):
            for feature, number in numbers.items():
                if (feature == "action") == (prefix != "normalize_inputs") and (
                    feature == "action" or feature in inputs
                ):
                    for statistic, tensor in number.items():
                        weights[f"{prefix}.buffer_{feature.replace('.', '_')}.{statistic}"] = tensor.clone()
    else:
        _write_processors(folder, config, numbers)
    save_file({name: weight.contiguous() for name, weight in weights.items()}, folder / "model.safetensors")
    (folder / "config.json").write_text(json.dumps(config))
    return network


def _write_processors(folder: Path, config: dict[str, Any], numbers: dict[str, dict[str, torch.Tensor]]) -> None:
    flat = {
        f"{name}.{statistic}": tensor.clone()
        for name, number in numbers.items()
        for statistic, tensor in number.items()
    }
    for file, step, place in (
        ("policy_preprocessor", "normalizer_processor", 3),
        ("policy_postprocessor", "unnormalizer_processor", 0),
    ):
        state = f"{file}_step_{place}_{step}.safetensors"
        save_file(flat, folder / state)
        features = {**config["input_features"], **config["output_features"]}
        settings = {"eps": 1e-8, "features": features, "norm_map": config["normalization_mapping"]}
        steps = [{"registry_name": "rename_observations_processor", "config": {"rename_map": {}}}]
        steps += [{"registry_name": step, "config": settings, "state_file": state}]
        (folder / f"{file}.json").write_text(json.dumps({"name": file, "steps": steps}))


def write(kind: str, folder: Path) -> Record:
    """Write a folder as LeRobot does (`reference.py`), and return its inputs and outputs."""
    with np.load(HERE / f"{kind}.npz") as file:
        record = dict(file)
    for name, content in record.items():
        if name.startswith("file/"):
            path = folder / name.removeprefix("file/")
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(content.tobytes())
    shapes = json.loads(record["weights"].tobytes())
    tensors = {name: torch.from_numpy(weight(name, tuple(shape))) for name, shape in shapes.items()}
    save_file(tensors, folder / "model.safetensors")
    return record


def config(**fields: Any) -> Change:
    """Change fields of the config."""
    return lambda folder: _rewrite(folder / "config.json", lambda content: {**content, **fields})


def step(name: str, instead: dict[str, Any] | None = None, **settings: Any) -> Change:
    """Change settings of a step of the preprocessor, or fields of the step."""

    def rewrite(content: dict[str, Any]) -> dict[str, Any]:
        (own,) = (each for each in content["steps"] if each["registry_name"] == name)
        own |= {"config": {**own.get("config", {}), **settings}} | (instead or {})
        return content

    return lambda folder: _rewrite(folder / "policy_preprocessor.json", rewrite)


def relative(excluded: list[str], names: list[str] | None) -> Change:
    """Make the actions of a pi0 or pi05 relative to the state, as its option `use_relative_actions` does."""
    settings = {"enabled": True, "exclude_joints": excluded, "action_names": names}

    def after(content: dict[str, Any]) -> dict[str, Any]:
        (own,) = (entry for entry in content["steps"] if entry["registry_name"] == ABSOLUTE)
        own["config"] = {"enabled": True}
        return content

    def change(folder: Path) -> None:
        config(use_relative_actions=True)(folder)
        step(RELATIVE, **settings)(folder)
        _rewrite(folder / "policy_postprocessor.json", after)

    return change


def statistics(**numbers: list[float]) -> Change:
    """Replace statistics of the state, by name."""

    def change(folder: Path) -> None:
        (file,) = folder.glob("policy_preprocessor*.safetensors")
        save_file(
            load_file(file) | {f"observation.state.{name}": torch.tensor(number) for name, number in numbers.items()},
            file,
        )

    return change


def _rewrite(file: Path, change: Callable[[dict[str, Any]], dict[str, Any]]) -> None:
    file.write_text(json.dumps(change(json.loads(file.read_text()))))
