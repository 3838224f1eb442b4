"""Export a diffusion policy that LeRobot trained, and compare its samples with those of LeRobot's own loop.

    python docs/examples/lerobot_policy.py policy
    python docs/examples/lerobot_policy.py policy outputs/train/checkpoints/last

The first command creates a small policy with random weights in LeRobot's format, in the folder policy-lerobot. The
second command uses your policy. On the command line, the export is `fewstep export FOLDER -o policy`. LeRobot is not
needed. `write_policy(FOLDER, cameras=2)` writes a policy that sees pictures instead of the environment's state.
"""

import json
import sys
from functools import partial
from pathlib import Path

import numpy as np
import torch
from safetensors.torch import save_file

from fewstep.export.export import export
from fewstep.export.export_options import ExportOptions
from fewstep.robots.control import History, sample_actions
from fewstep.robots.networks.lerobot import LeRobotDiffusion, Vision
from fewstep.robots.networks.unet1d import ConditionalUnet1d
from fewstep.runtime import UserError, load

STATE, ENVIRONMENT, ACTIONS = 6, 4, 6
SIZE = (40, 48)  # height and width of a picture
CONFIG = {
    "type": "diffusion",
    "n_obs_steps": 2,
    "horizon": 16,
    "n_action_steps": 8,
    "output_features": {"action": {"type": "ACTION", "shape": [ACTIONS]}},
    "down_dims": [64],
    "kernel_size": 5,
    "n_groups": 8,
    "diffusion_step_embed_dim": 32,
    "use_film_scale_modulation": True,
    "noise_scheduler_type": "DDIM",
    "num_train_timesteps": 100,
    "beta_schedule": "squaredcos_cap_v2",
    "beta_start": 0.0001,
    "beta_end": 0.02,
    "prediction_type": "epsilon",
    "clip_sample": True,
    "clip_sample_range": 1.0,
}
OF_CAMERAS = {
    "vision_backbone": "resnet18",
    "crop_shape": None,
    "use_group_norm": True,
    "spatial_softmax_num_keypoints": 32,
    "use_separate_rgb_encoder_per_camera": False,
    "prediction_type": "sample",  # of random weights, which lie within the clip
}
MODES = {"STATE": "MIN_MAX", "ENV": "IDENTITY", "VISUAL": "IDENTITY", "ACTION": "MIN_MAX"}
LIMITS = {"min": torch.full((6,), -1.57), "max": torch.full((6,), 1.57)}  # range of the joints, in radians


def write_policy(folder: Path, cameras: int = 0) -> None:
    """Write the files of LeRobot's `save_pretrained`, with random weights. Cameras replace the environment's state."""
    folder.mkdir(parents=True, exist_ok=True)
    unet = partial(ConditionalUnet1d, widths=(64,), kernel=5, time_width=32, scales=True)
    inputs: dict[str, object] = {"observation.state": {"type": "STATE", "shape": [STATE]}}
    if cameras:
        vision = Vision(cameras, SIZE, group_norm=True, separate=False)
        network = LeRobotDiffusion(ACTIONS, 2, STATE, vision, 0, unet)
        inputs |= {f"observation.images.cam{k}": {"type": "VISUAL", "shape": [3, *SIZE]} for k in range(cameras)}
    else:
        network = LeRobotDiffusion(ACTIONS, 2, STATE, None, ENVIRONMENT, unet)
        inputs["observation.environment_state"] = {"type": "ENV", "shape": [ENVIRONMENT]}
    config = {**CONFIG, **(OF_CAMERAS if cameras else {}), "input_features": inputs}
    save_file(
        {f"diffusion.{name}": weight for name, weight in network.state_dict().items()}, folder / "model.safetensors"
    )
    (folder / "config.json").write_text(json.dumps(config))
    for file, step in (
        ("policy_preprocessor", "normalizer_processor"),
        ("policy_postprocessor", "unnormalizer_processor"),
    ):
        numbers = {f"{name}.{end}": LIMITS[end].clone() for name in ("observation.state", "action") for end in LIMITS}
        save_file(numbers, folder / f"{file}_{step}.safetensors")
        entry = {"registry_name": step, "config": {"norm_map": MODES}, "state_file": f"{file}_{step}.safetensors"}
        (folder / f"{file}.json").write_text(json.dumps({"name": file, "steps": [entry]}))


def main(bundle: str, policy: str | None = None) -> None:
    if policy is None:
        print("no folder is given: random weights")
        torch.manual_seed(0)
        policy = f"{bundle}-lerobot"
        write_policy(Path(policy))
    export(ExportOptions(source=policy, output=Path(bundle)))
    with load(bundle) as sampler:
        manifest, history = sampler.bundle.manifest, History(sampler)
        history.add({each.name: np.zeros(each.shape[1:], each.dtype) for each in manifest.conditions})
        actions = sample_actions(sampler, "scheduler:10", history.window())
    executed = 0 if manifest.policy is None else manifest.policy.actions
    print(f"{bundle}: {len(actions)} actions from now on, {executed} to execute, the first {actions[0].round(3)}")


if __name__ == "__main__":
    if len(sys.argv) not in (2, 3):
        sys.exit("usage: python docs/examples/lerobot_policy.py BUNDLE [FOLDER]")
    try:
        main(*sys.argv[1:])
    except UserError as error:
        sys.exit(f"lerobot_policy: {error}")
