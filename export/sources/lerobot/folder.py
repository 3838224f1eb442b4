"""A diffusion policy as LeRobot saves it: config.json of type "diffusion", model.safetensors, and its normalisation.

Read without LeRobot, and without network access. The bundle takes raw observations, since their normalisation becomes
part of the graph, and gives actions whose units the manifest holds.
"""

import hashlib
import re
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from fewstep.export.sources.diffusers.files import INDEX, read_json
from fewstep.export.sources.lerobot.statistics import (
    AFTER,
    BEFORE,
    RETRAINED,
    FeatureStatistics,
    Normaliser,
    normaliser,
    read_tensors,
)
from fewstep.export.sources.torch_module import TorchSource
from fewstep.export.spec import Spec
from fewstep.plans.configs import schedule_from_scheduler_config
from fewstep.plans.errors import UserError
from fewstep.runtime.bundle.manifest import Condition, Policy
from fewstep.runtime.bundle.reading import file_sha256

if TYPE_CHECKING:
    from fewstep.models.policies.lerobot import LeRobotDiffusion, Unet, Vision

CONFIG, WEIGHTS = "config.json", "model.safetensors"
CHECKPOINT = "pretrained_model"  # the folder inside a training checkpoint that holds the policy
CHECKPOINTS = "checkpoints"  # the folder of a run of training that holds its checkpoints, by their number
STATE, ACTION = "observation.state", "action"
WRITE_IT = "write a function that returns (module, Spec), and give FILE.py:FUNCTION (docs/policies.md)"
NETWORK = "diffusion."  # in front of the network's weights
COMPILED = "_orig_mod."  # in the names of weights of a network that was compiled
STATISTICS = ("normalize_inputs.", "normalize_targets.", "unnormalize_outputs.")
SCHEDULER = (  # what LeRobot passes on to the scheduler; all else is the scheduler's default
    "num_train_timesteps",
    "beta_start",
    "beta_end",
    "beta_schedule",
    "clip_sample",
    "clip_sample_range",
    "prediction_type",
)
LATER: dict[str, Any] = {  # fields that older versions did not write, and what those did
    "resize_shape": None,
    "crop_ratio": 1.0,
    "use_separate_rgb_encoder_per_camera": False,
}

Config = Mapping[str, Any]
Shapes = dict[str, tuple[int, ...]]  # by feature


def is_policy(folder: Path) -> bool:
    """Whether the folder holds a policy of LeRobot's, of whichever type, rather than a pipeline of diffusers."""
    config = _home(folder) / CONFIG
    return not (folder / INDEX).is_file() and config.is_file() and "type" in read_json(config, RETRAINED)


def load_lerobot_folder(folder: Path) -> TorchSource:
    """The policy of a folder. UserError naming the file or field that is missing, or is of another kind."""
    home = _home(folder)
    given = read_json(home / CONFIG, RETRAINED)
    if given["type"] != "diffusion":
        raise UserError(f"{folder}: its policy is of type {given['type']!r}, and fewstep reads 'diffusion'", WRITE_IT)
    try:
        return _source(home, {**LATER, **given}, _name(folder.resolve()))
    except KeyError as error:
        raise UserError(f"{home / CONFIG} has no {error.args[0]!r}", RETRAINED) from error
    except (IndexError, ArithmeticError, TypeError, ValueError, RuntimeError) as error:  # what torch says of a number
        raise UserError(f"{home / CONFIG} is not that of a diffusion policy ({error})", RETRAINED) from error


def _home(folder: Path) -> Path:
    return folder if (folder / CONFIG).is_file() else folder / CHECKPOINT


def _name(folder: Path) -> str:
    """The folder's name, or the run's of one of its checkpoints: those are numbers, or "last"."""
    checkpoint = folder.parent if folder.name == CHECKPOINT else folder
    run = checkpoint.parent.parent.name if checkpoint.parent.name == CHECKPOINTS else ""
    return run or folder.name


def _source(home: Path, config: Config, name: str) -> TorchSource:
    from fewstep.export.sources.lerobot.network import RawPolicy
    from fewstep.models.policies.lerobot import LeRobotDiffusion

    inputs, outputs = (dict(config[field]) for field in ("input_features", "output_features"))
    of_kind = {kind: _shapes(inputs, kind) for kind in ("STATE", "VISUAL", "ENV")}
    state, pictures = of_kind["STATE"].get(STATE), of_kind["VISUAL"]
    environment = next(iter(of_kind["ENV"].items()), None)
    actions = _shapes(outputs, "ACTION").get(ACTION)
    if state is None or actions is None:
        raise UserError(f"{home / CONFIG} has no {STATE if state is None else ACTION}", RETRAINED)
    observations = int(config["n_obs_steps"])
    weights = read_tensors(home / WEIGHTS)
    before = normaliser(home, BEFORE, config, inputs, weights)
    after = normaliser(home, AFTER, config, outputs, weights)
    vision = _vision(config, pictures)
    network = LeRobotDiffusion(
        actions[0], observations, state[0], vision, environment[1][0] if environment else 0, _unet(config)
    )
    _load(network, weights, home / WEIGHTS)
    seen = {STATE: state, **pictures, **({environment[0]: environment[1]} if environment else {})}
    statistics = {name: _statistics(before, name, inputs[name]["type"], shape) for name, shape in seen.items()}
    scheduler = _scheduler(config)
    schedule, prediction = schedule_from_scheduler_config(scheduler)
    spec = Spec(
        name,
        (int(config["horizon"]), actions[0]),
        tuple(_condition(each, (observations, *shape), statistics[each]) for each, shape in seen.items()),
        prediction,
        schedule,
        units=_statistics(after, ACTION, "ACTION", actions).inverse,
        policy=Policy(observations, observations - 1, int(config["n_action_steps"])),
    )
    module = RawPolicy(network, statistics.values(), cameras=len(pictures), environment=environment is not None)
    return TorchSource(module, spec, name, _sha256(home), scheduler=scheduler)


def _shapes(features: Config, kind: str) -> Shapes:
    """The features of a type, in order."""
    return {name: tuple(map(int, each["shape"])) for name, each in features.items() if each["type"] == kind}


def _vision(config: Config, pictures: Shapes) -> "Vision | None":
    from fewstep.models.policies.lerobot import Vision
    from fewstep.models.policies.resnet import BLOCKS

    if not pictures:
        return None
    backbone = config["vision_backbone"]
    if backbone not in BLOCKS:
        raise UserError(f"its cameras are encoded by a {backbone!r}, and fewstep knows {', '.join(BLOCKS)}", WRITE_IT)
    (channels, *size), *others = pictures.values()
    if channels != 3 or any(other != (channels, *size) for other in others):
        raise UserError(f"its pictures are {[list(shape) for shape in pictures.values()]}", "give [3, H, W] for each")
    resize, crop = config["resize_shape"], config["crop_shape"]
    if resize is not None:  # then the crop follows from it, whatever the file says
        crop = None if config["crop_ratio"] == 1 else [int(side * config["crop_ratio"]) for side in resize]
    return Vision(
        cameras=len(pictures),
        size=_size(size),
        backbone=backbone,
        resize=None if resize is None else _size(resize),
        crop=None if crop is None else _size(crop),
        group_norm=bool(config["use_group_norm"]),
        keypoints=int(config["spatial_softmax_num_keypoints"]),
        separate=bool(config["use_separate_rgb_encoder_per_camera"]),
    )


def _size(pixels: Iterable[Any]) -> tuple[int, int]:
    height, width = map(int, pixels)
    return height, width


def _unet(config: Config) -> "Unet":
    from fewstep.models.policies.lerobot import Unet

    return Unet(
        widths=tuple(map(int, config["down_dims"])),
        kernel=int(config["kernel_size"]),
        groups=int(config["n_groups"]),
        time_width=int(config["diffusion_step_embed_dim"]),
        scales=bool(config["use_film_scale_modulation"]),
    )


def _load(network: "LeRobotDiffusion", weights: Mapping[str, Any], path: Path) -> None:
    """Every weight has its place, and every place its weight."""
    own = {
        name.removeprefix(NETWORK).replace(COMPILED, ""): tensor
        for name, tensor in weights.items()
        if not name.startswith(STATISTICS)
    }
    wanted = network.state_dict()
    for name in (*wanted, *own):
        if name not in own:
            raise UserError(f"{path} has no weight {NETWORK + name!r}, which {CONFIG} asks for", RETRAINED)
        if name not in wanted:
            raise UserError(f"{path} has a weight {NETWORK + name!r}, for which {CONFIG} has no place", RETRAINED)
        if own[name].shape != wanted[name].shape:
            has, asks = list(own[name].shape), list(wanted[name].shape)
            raise UserError(f"{path}: weight {NETWORK + name!r} is {has}, and {CONFIG} asks for {asks}", RETRAINED)
    network.load_state_dict(own)


def _statistics(normaliser: Normaliser, name: str, kind: str, shape: tuple[int, ...]) -> FeatureStatistics:
    if kind != "VISUAL" and len(shape) != 1:
        raise UserError(f"feature {name} is {list(shape)}, not a list of numbers", WRITE_IT)
    return normaliser.of(name, kind, shape[0])


def _condition(name: str, shape: tuple[int, ...], statistics: FeatureStatistics) -> Condition:
    """An observation as it is measured: pictures as cameras give them, numbers in the robot's units."""
    tensor = re.sub(r"\W", "_", name)
    if len(shape) > 2:
        return Condition(name, tensor, shape, "uint8", low=0, high=255)
    return Condition(name, tensor, shape, "float32", typical=statistics.typical)


def _scheduler(config: Config) -> dict[str, Any]:
    kind = config["noise_scheduler_type"]
    if kind not in ("DDPM", "DDIM"):
        raise UserError(f"it was trained with the scheduler {kind!r}", "choose DDPM or DDIM")
    return {"_class_name": f"{kind}Scheduler", **{name: config[name] for name in SCHEDULER}}


def _sha256(home: Path) -> str:
    """One hash of all files that were read."""
    digest = hashlib.sha256()
    for file in sorted((*home.glob("*.json"), *home.glob("*.safetensors"))):
        digest.update(bytes.fromhex(file_sha256(file)))
    return digest.hexdigest()
