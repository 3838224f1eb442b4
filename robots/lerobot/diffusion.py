"""Read a policy of type "diffusion": ResNets and a 1-D U-Net."""

from collections.abc import Iterable, Mapping
from functools import partial
from typing import TYPE_CHECKING, Any

from fewstep.export.sources.torch_module import TorchSource
from fewstep.export.spec import Spec
from fewstep.plans.configs.classes import schedule_from_scheduler_config
from fewstep.plans.errors import UserError
from fewstep.robots.lerobot.normalisation import WRITE_IT
from fewstep.robots.lerobot.policy import STATE, Config, PolicyFolder, Shapes, rename_weights

if TYPE_CHECKING:
    from fewstep.robots.networks.lerobot import Unet1d, Vision
    from fewstep.robots.networks.vision import Size

SCHEDULER = (  # the fields that LeRobot passes to the scheduler; all others have the scheduler's defaults
    "num_train_timesteps",
    "beta_start",
    "beta_end",
    "beta_schedule",
    "clip_sample",
    "clip_sample_range",
    "prediction_type",
)
LATER: dict[str, Any] = {  # fields that older versions did not write, with the values that they used
    "resize_shape": None,
    "crop_ratio": 1.0,
    "use_separate_rgb_encoder_per_camera": False,
}


def load_diffusion(folder: PolicyFolder) -> TorchSource:
    """Load a Diffusion Policy from its LeRobot folder, as a source to export."""
    from fewstep.robots.lerobot.network import NormalisingPolicy
    from fewstep.robots.networks.lerobot import LeRobotDiffusion

    config = {**LATER, **folder.config}
    pictures, state, action = folder.pictures, folder.state, folder.action
    environment = next(iter(folder.shapes("ENV").items()), None)
    observations, vision = int(config["n_obs_steps"]), _make_vision(config, pictures)
    numbers = environment[1][0] if environment else 0
    network = rename_weights(folder, [("diffusion.", "")]).load_network(
        lambda: LeRobotDiffusion(action, observations, state, vision, numbers, _make_unet(config))
    )
    kinds: dict[str, Shapes] = {"STATE": {STATE: (state,)}, "VISUAL": pictures}
    kinds["ENV"] = dict([environment] if environment else [])
    conditions, statistics = folder.conditions(observations, kinds)
    scheduler = scheduler_config(config)
    schedule, prediction = schedule_from_scheduler_config(scheduler)
    spec = Spec(
        folder.name,
        (int(config["horizon"]), action),
        conditions,
        prediction,
        schedule,
        units=folder.action_units("horizon"),
        policy=folder.rhythm("horizon", observations),
    )
    module = NormalisingPolicy(network, statistics, first=1, cameras=len(pictures))
    return TorchSource(module, spec, folder.name, folder.sha256, scheduler=scheduler)


def _make_vision(config: Config, pictures: Shapes) -> "Vision | None":
    from fewstep.robots.networks.lerobot import Vision
    from fewstep.robots.networks.resnet import BLOCKS

    if not pictures:
        return None
    backbone = config["vision_backbone"]
    if backbone not in BLOCKS:
        raise UserError(
            f"the policy encodes its cameras with {backbone!r}; fewstep reads only {', '.join(BLOCKS)}", WRITE_IT
        )
    resize, crop = config["resize_shape"], config["crop_shape"]
    if resize is not None:  # then LeRobot derives the crop from it and ignores crop_shape
        crop = None if config["crop_ratio"] == 1 else [int(side * config["crop_ratio"]) for side in resize]
    return Vision(
        cameras=len(pictures),
        size=common_size(pictures),
        backbone=backbone,
        resize=parse_size(resize),
        crop=parse_size(crop),
        group_norm=bool(config["use_group_norm"]),
        keypoints=int(config["spatial_softmax_num_keypoints"]),
        separate=bool(config["use_separate_rgb_encoder_per_camera"]),
    )


def common_size(pictures: Shapes) -> "Size":
    """Return the height and width of all cameras' images. Raises UserError if the cameras differ."""
    first, *others = pictures.values()
    if any(other != first for other in others):
        raise UserError(
            f"the policy's cameras differ in size: {[list(picture) for picture in pictures.values()]}",
            "give a policy whose cameras have the same size",
        )
    return first[1], first[2]


def parse_size(pixels: Iterable[Any] | None) -> "Size | None":
    """Return (height, width) from the two numbers in a config, or None if there are none."""
    if pixels is None:
        return None
    height, width = map(int, pixels)
    return height, width


def _make_unet(config: Config) -> "Unet1d":
    from fewstep.robots.networks.unet1d import ConditionalUnet1d

    return partial(
        ConditionalUnet1d,
        widths=tuple(map(int, config["down_dims"])),
        kernel=int(config["kernel_size"]),
        groups=int(config["n_groups"]),
        time_width=int(config["diffusion_step_embed_dim"]),
        scales=bool(config["use_film_scale_modulation"]),
    )


def scheduler_config(config: Mapping[str, Any]) -> dict[str, Any]:
    """Return the config of the scheduler that a policy was trained with."""
    kind = config["noise_scheduler_type"]
    if kind not in ("DDPM", "DDIM"):
        raise UserError(
            f"the policy was trained with the scheduler {kind!r}", "give a policy that was trained with DDPM or DDIM"
        )
    return {"_class_name": f"{kind}Scheduler", **{name: config[name] for name in SCHEDULER}}
