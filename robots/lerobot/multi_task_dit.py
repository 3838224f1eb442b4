"""Read a policy of type "multi_task_dit": CLIP for cameras and task, a transformer over actions."""

from collections.abc import Sequence
from functools import partial
from math import isqrt
from typing import TYPE_CHECKING

from fewstep.export.companions.networks import PipelineNetworks
from fewstep.export.sources.torch_module import TorchSource
from fewstep.export.spec import Spec
from fewstep.plans.configs.classes import schedule_from_scheduler_config
from fewstep.plans.errors import UserError
from fewstep.plans.spec import Prediction, ScheduleSpec
from fewstep.robots.lerobot.diffusion import common_size, parse_size, scheduler_config
from fewstep.robots.lerobot.language import read_language
from fewstep.robots.lerobot.normalisation import WRITE_IT
from fewstep.robots.lerobot.policy import STATE, NamedWeights, PolicyFolder, read_policy, rename_weights
from fewstep.runtime.bundle.manifest import Condition

if TYPE_CHECKING:
    from torch import nn

    from fewstep.robots.networks.encoders import Shape
    from fewstep.robots.networks.multi_task_dit import ClipView, DitShape

FLOW = ScheduleSpec("flow", timesteps=1)
PREDICTION: Prediction = "flow"
CLIP = "openai/clip-vit-"  # other CLIPs have other head widths, or another activation
CLIP_HEAD = 64  # width of an attention head, in all of OpenAI's CLIPs
TEXT = "text"
ENCODER = "observation_encoder."
WORDS = f"{ENCODER}text_encoder."
TRANSFORMER = "text_encoder.text_model."


def load_multi_task_dit(folder: PolicyFolder) -> TorchSource:
    """Return the policy as a source, with its text encoder as a companion."""
    from fewstep.robots.lerobot.network import NormalisingPolicy
    from fewstep.robots.networks.multi_task_dit import MultiTaskDit

    config, pictures, state = folder.config, folder.pictures, folder.state
    for field in ("vision_encoder_name", "text_encoder_name"):
        if not config[field].startswith(CLIP):
            raise UserError(f"{folder.home} has the encoder {config[field]!r}; fewstep reads only {CLIP}...", WRITE_IT)
    clips = _vision_prefixes(len(pictures), bool(config["use_separate_rgb_encoder_per_camera"]))
    pairs = [
        ("noise_predictor.", ""),
        *((f"{clip}{part}.", f"vision.{n}.") for n, clip in enumerate(clips) for part in ("embeddings", "encoder")),
        *((f"{clip}pre_layrnorm.", f"vision.{n}.pre_layrnorm.") for n, clip in enumerate(clips)),
    ]
    weights = rename_weights(folder, pairs, unused=(WORDS, *(f"{clip}post_layernorm." for clip in clips)))
    shape, view = _dit_shape(folder), _clip_view(weights, len(clips)) if pictures else None
    flows, observations = config["objective"] == "flow_matching", int(config["n_obs_steps"])
    network = weights.load_network(lambda: MultiTaskDit(shape, observations, state, view, flows=flows))
    conditions, statistics = folder.conditions(observations, {"STATE": {STATE: (state,)}, "VISUAL": pictures})
    scheduler, flow = None if flows else scheduler_config(config), (FLOW, PREDICTION)
    schedule, prediction = flow if scheduler is None else schedule_from_scheduler_config(scheduler)
    text = Condition(TEXT, TEXT, (shape.width,), "float32", typical=(-1.0, 1.0))
    spec = Spec(
        folder.name,
        (shape.horizon, shape.actions),
        (*conditions, text),
        prediction,
        schedule,
        units=folder.action_units("horizon"),
        policy=folder.rhythm("horizon", observations),
    )
    module = NormalisingPolicy(network, statistics, first=1, cameras=len(pictures))
    return TorchSource(
        module, spec, folder.name, folder.sha256, scheduler=scheduler, companions=_make_text_encoder(folder, text)
    )


def _vision_prefixes(cameras: int, separate: bool) -> Sequence[str]:
    """Return the name prefix of each vision encoder's weights."""
    several = [f"{ENCODER}vision_encoders.{number}.model.vision_model." for number in range(cameras)]
    return several if separate else [f"{ENCODER}vision_encoder.model.vision_model."][:cameras]


def _dit_shape(folder: PolicyFolder) -> "DitShape":
    from fewstep.robots.networks.multi_task_dit import DitShape

    config = folder.config
    return DitShape(
        horizon=int(config["horizon"]),
        actions=folder.action,
        width=int(config["hidden_dim"]),
        heads=int(config["num_heads"]),
        layers=int(config["num_layers"]),
        time_width=int(config["timestep_embed_dim"]),
        rope=float(config["rope_base"]) if config["use_rope"] else None,
        learned=bool(config["use_positional_encoding"]),
    )


def clip_shape(weights: NamedWeights, start: str) -> "Shape":
    """Return the sizes of an encoder from the shapes of its weights, except the number of heads."""
    from fewstep.robots.networks.encoders import Shape

    hidden, width = weights.shape(f"{start}layers.0.mlp.fc1.weight")
    return Shape(width, max(1, width // CLIP_HEAD), weights.count_layers(f"{start}layers."), hidden)


def _clip_view(weights: NamedWeights, encoders: int) -> "ClipView":
    from fewstep.robots.networks.multi_task_dit import ClipView

    pictures, config = weights.folder.pictures, weights.folder.config
    size, resize, crop = (
        common_size(pictures),
        parse_size(config["image_resize_shape"]),
        parse_size(config["image_crop_shape"]),
    )
    before = resize or size
    if crop is not None and (crop[0] > before[0] or crop[1] > before[1]):  # LeRobot then ignores the crop
        crop = None
    patch = weights.shape("vision.0.patch_embedding.weight")[-1]
    positions = weights.shape("vision.0.position_embedding.weight")[0]
    patches = [side // patch for side in crop or before]
    if patches != [isqrt(positions - 1)] * 2:
        raise ValueError(f"images have {patches} patches per side, but the encoder has {positions - 1} in all")
    shape = clip_shape(weights, "vision.0.")
    return ClipView(len(pictures), encoders, shape, patch, positions, size, resize, crop)


def _make_text_encoder(folder: PolicyFolder, text: Condition) -> PipelineNetworks:
    """Return the policy's text encoder: CLIP's, followed by a learned projection."""
    weights = _text_weights(folder)
    shape = clip_shape(weights, "")
    vocabulary, positions = (weights.shape(f"{name}_embedding.weight")[0] for name in ("token", "position"))
    home, config, name, width = folder.home, folder.config, folder.name, text.shape[0]

    def load() -> "nn.Module":  # reads the file again, so that its tensors need not stay in memory until then
        from fewstep.robots.networks.encoders import ClipText

        again = _text_weights(read_policy(home, config, name))
        return again.load_network(partial(ClipText, shape, vocabulary, positions, width))

    size = 4 * sum(tensor.numel() for tensor in weights.tensors.values())
    return read_language(folder).make_companion(load, (text,), vocabulary, size)


def _text_weights(folder: PolicyFolder) -> NamedWeights:
    """Return the weights of the text encoder and of its projection."""
    inner = [(f"{WORDS}{TRANSFORMER}{part}", "") for part in ("embeddings.", "encoder.", "")]
    unused = ("noise_predictor.", f"{ENCODER}vision_encoder")
    return rename_weights(folder, [(f"{WORDS}projection.", "projection."), *inner], unused)
