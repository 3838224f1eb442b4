"""Read policies of the types "smolvla", "pi0" and "pi05": a vision-language prefix and an action expert."""

import math
from collections.abc import Iterable, Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from fewstep.export.sources.torch_module import TorchSource
from fewstep.export.spec import Spec
from fewstep.plans.errors import UserError
from fewstep.robots.lerobot.adapter import WEIGHTS
from fewstep.robots.lerobot.diffusion import common_size, parse_size
from fewstep.robots.lerobot.language import read_language
from fewstep.robots.lerobot.multi_task_dit import FLOW, PREDICTION
from fewstep.robots.lerobot.normalisation import RETRAINED, WRITE_IT
from fewstep.robots.lerobot.policy import (
    STATE,
    NamedWeights,
    PolicyFolder,
    Shapes,
    count_layers,
    read_weights,
    rename_weights,
)
from fewstep.runtime.bundle.manifest import Condition, PromptForm, StateWords

if TYPE_CHECKING:
    from torch import nn

    from fewstep.robots.networks.decoder import DecoderShape
    from fewstep.robots.networks.vla import CameraShape

SMOL, PI = "model.vlm_with_expert.", "model.paligemma_with_expert."
SMOLVLM = "smolvlm"  # part of the names of the models whose head widths are known
SMOL_HEAD, GEMMA_HEAD = 64, 256  # width of an attention head, in all sizes of SmolLM2, and of Gemma in LeRobot
VISION_HEADS = {1152: 16}  # heads of SigLIP's largest model, by width; others have heads of width 64
WORDS, MASK = "words", "words_mask"
EMBEDDING = "embed_tokens.weight"
PI05_PROMPT = "Task: {task}, State: {state};\nAction: "
STATE_BINS = 256


def load_smolvla(folder: PolicyFolder) -> TorchSource:
    """Read SmolVLA, whose state is the last token of the prefix. Expert layers alternate between attention to the
    prefix only and to all tokens."""
    config = folder.config
    _refuse(folder, ("adapt_to_pi_aloha", "add_image_special_tokens", "use_delta_joint_actions_aloha"))
    if SMOLVLM not in (model := config["vlm_model_name"]).lower():
        raise UserError(f"{folder.home} has the model {model!r}; fewstep reads only SmolVLM's", WRITE_IT)
    text, expert = f"{SMOL}vlm.model.text_model.", f"{SMOL}lm_expert."
    layers, experts = count_layers(folder.weights, f"{text}layers."), count_layers(folder.weights, f"{expert}layers.")
    if not experts or layers % experts:
        raise ValueError(f"the expert has {experts} layers, and the language model {layers}")
    every = layers // experts
    weights = _rename_vla_weights(
        folder,
        _siglip_names(f"{SMOL}vlm.model.vision_model."),
        (f"{SMOL}vlm.model.connector.modality_projection.proj.", "connector."),
        (f"{text}layers.", "language."),
        *((f"{expert}layers.{number}.", f"expert.{number * every}.") for number in range(experts)),
        (f"{expert}norm.", "norm."),
        unused=(f"{SMOL}vlm.lm_head.", f"{text}norm.", f"{text}embed_tokens."),
    )
    crosses, joins = "cross" in config["attention_mode"], int(config["self_attn_every_n_layers"])
    expert_layers = [
        _decoder_shape(weights, f"expert.{n}.", SMOL_HEAD, crosses and not (joins > 0 and n % joins == 0))
        if n % every == 0
        else None
        for n in range(layers)
    ]
    resize = parse_size(config["resize_imgs_with_padding"])
    size = common_size(folder.pictures) if resize is None else (resize[1], resize[0])  # LeRobot has its width first
    return _make_source(weights, SMOL_HEAD, expert_layers, size, "prefix", f"{text}{EMBEDDING}")


def load_pi(folder: PolicyFolder) -> TorchSource:
    """Read a folder of pi0 or pi0.5. In pi0, the robot's state is a token of the action expert. In pi0.5, the state is
    written into the prompt, and the timestep scales the expert's normalization layers."""
    _refuse(folder)
    if any(folder.before.modes.get("VISUAL", "IDENTITY") != "IDENTITY" for _ in folder.pictures):
        raise UserError(f"{folder.home} normalises images, but PaliGemma takes raw images", WRITE_IT)
    whole, expert = f"{PI}paligemma.model.", f"{PI}gemma_expert."
    text = f"{whole}language_model."
    weights = _rename_vla_weights(
        folder,
        _siglip_names(f"{whole}vision_tower.vision_model."),
        (f"{whole}multi_modal_projector.linear.", "connector."),
        (f"{text}layers.", "language."),
        (f"{expert}model.layers.", "expert."),
        (f"{expert}model.norm.", "norm."),
        unused=(f"{PI}paligemma.lm_head.", f"{expert}lm_head.", f"{text}norm.", f"{text}embed_tokens."),
    )
    for name, tensor in weights.tensors.items():
        if name.endswith("norm.weight") and not name.startswith("vision."):
            weights.tensors[name] = tensor.float() + 1  # Gemma stores its scales minus 1
    layers = range(weights.count_layers("language."))
    expert_layers = [_decoder_shape(weights, f"expert.{number}.", GEMMA_HEAD, False) for number in layers]
    size = parse_size(folder.config["image_resolution"])
    assert size is not None
    embedding = next(
        (each for each in (f"{text}{EMBEDDING}", f"{PI}paligemma.lm_head.weight") if each in folder.weights), EMBEDDING
    )
    place: Literal["prompt", "expert"] = "prompt" if folder.config["type"] == "pi05" else "expert"
    return _make_source(weights, GEMMA_HEAD, expert_layers, size, place, embedding)


def _refuse(folder: PolicyFolder, fields: Iterable[str] = ()) -> None:
    """Raise UserError for policies with unsupported config fields, or without a camera."""
    for field in fields:
        if folder.config.get(field):
            raise UserError(f"the policy was trained with {field}, which fewstep does not read", WRITE_IT)
    if not folder.pictures:
        raise UserError(f"the policy in {folder.home} has no camera", "give a policy with at least one camera")


def _siglip_names(theirs: str) -> list[tuple[str, str]]:
    """Return the name prefixes of the vision encoder: LeRobot's and the network's."""
    return [
        (f"{theirs}embeddings.patch_embedding.", "vision.patch_embedding."),
        (f"{theirs}embeddings.position_embedding.", "vision.position_embedding."),
        (f"{theirs}encoder.layers.", "vision.layers."),
        (f"{theirs}post_layernorm.", "vision.post_layernorm."),
    ]


def _rename_vla_weights(
    folder: PolicyFolder, vision: Sequence[tuple[str, str]], *pairs: tuple[str, str], unused: tuple[str, ...]
) -> NamedWeights:
    """Return the weights, including the projections that all of these policies have."""
    mlps = [(f"model.{start}time_mlp_{end}.", f"time_mlp_{end}.") for start in ("action_", "") for end in ("in", "out")]
    projections = [(f"model.{name}_proj.", f"{name}_proj.") for name in ("state", "action_in", "action_out")]
    return rename_weights(folder, [*vision, *pairs, *mlps, *projections], unused)


def _decoder_shape(weights: NamedWeights, start: str, head: int, crosses: bool) -> "DecoderShape":
    """Return the sizes of a layer from the shapes of its weights, except the width of a head."""
    from fewstep.robots.networks.decoder import DecoderShape

    queries, width = weights.shape(f"{start}self_attn.q_proj.weight")
    keys, seen = weights.shape(f"{start}self_attn.k_proj.weight")
    hidden, _ = weights.shape(f"{start}mlp.gate_proj.weight")
    adaptive = weights.tensors.get(f"{start}input_layernorm.dense.weight")
    condition = 0 if adaptive is None else int(adaptive.shape[1])
    return DecoderShape(width, queries // head, keys // head, head, hidden, condition, seen if crosses else 0)


def _make_source(
    weights: NamedWeights,
    head: int,
    expert_layers: Sequence["DecoderShape | None"],
    size: tuple[int, int],
    place: Literal["prefix", "expert", "prompt"],
    embedding: str,
) -> TorchSource:
    from fewstep.robots.lerobot.network import NormalisingPolicy
    from fewstep.robots.networks.vla import ActionSpace, Experts, VisionLanguageAction

    folder, gemma = weights.folder, place != "prefix"
    config, pictures = folder.config, folder.pictures
    language = _decoder_shape(weights, "language.0.", head, False)
    experts = Experts(language, tuple(expert_layers), gemma)
    space = ActionSpace(
        length=int(config["chunk_size"]),
        width=int(config["max_action_dim"]),
        state=int(config["max_state_dim"]),
        place=place,
        causal=not gemma,
        periods=(float(config["min_period"]), float(config["max_period"])),
    )
    if not 0 < space.periods[0] < space.periods[1] < math.inf:
        raise ValueError(f"min_period is {space.periods[0]:g} and max_period is {space.periods[1]:g}")
    if folder.action > space.width or folder.state > space.state:
        raise ValueError(
            f"the state has {folder.state} values and the action has {folder.action}, but at most {space.state} and "
            f"{space.width} are supported"
        )
    eyes = _vision_shape(weights, size, gemma)
    network = weights.load_network(lambda: VisionLanguageAction(eyes, experts, space))
    state: Shapes = {} if place == "prompt" else {STATE: (folder.state,)}
    conditions, statistics = folder.conditions(1, {"STATE": state, "VISUAL": pictures})
    words = read_language(folder, _state_prompt_form(folder) if place == "prompt" else None)
    length = words.tokens.length
    if (table := folder.weights.get(embedding)) is None:
        raise UserError(f"{folder.home / WEIGHTS} has no weight {embedding!r}", RETRAINED)
    scale = math.sqrt(language.width)
    spread = 2 * scale * float(table.float().std())
    text = (
        Condition(WORDS, WORDS, (length, language.width), "float32", typical=(-spread, spread)),
        Condition(MASK, MASK, (length,), "int64", low=0, high=1),
    )
    spec = Spec(
        folder.name,
        (space.length, space.width),
        (*conditions, *text),
        PREDICTION,
        FLOW,
        units=folder.action_units("chunk_size", space.width),
        policy=folder.rhythm("chunk_size", 1, folder.action),
    )

    load = partial(_load_word_embedding, folder.home, embedding, scale)
    companion = words.make_companion(load, text, len(table), 4 * table.numel())
    module = NormalisingPolicy(network, statistics, first=len(state), cameras=len(pictures))
    return TorchSource(module, spec, folder.name, folder.sha256, companions=companion)


def _load_word_embedding(home: Path, embedding: str, scale: float) -> "nn.Module":
    """Load the word embeddings. The file is read again, so that its tensors need not stay in memory until then."""
    from fewstep.robots.networks.vla import WordEmbedding

    return WordEmbedding(read_weights(home)[embedding].float(), scale)


def _vision_shape(weights: NamedWeights, size: tuple[int, int], centred: bool) -> "CameraShape":
    """Return the vision encoder's sizes from the shapes of its weights, except the number of heads."""
    from fewstep.robots.networks.encoders import Shape
    from fewstep.robots.networks.vla import CameraShape

    channels, _, patch, _ = weights.shape("vision.patch_embedding.weight")
    positions = math.isqrt(weights.shape("vision.position_embedding.weight")[0])
    hidden, _ = weights.shape("vision.layers.0.mlp.fc1.weight")
    merged = math.isqrt(weights.shape("connector.weight")[1] // channels)
    heads, rest = (VISION_HEADS[channels], 0) if channels in VISION_HEADS else divmod(channels, 64)
    if rest:
        raise ValueError(f"the number of heads of a vision encoder of width {channels} is unknown")
    if any(side % (patch * merged) for side in size):
        raise ValueError(
            f"images of {list(size)} cannot be divided into patches of {patch}, {merged} by {merged} per token"
        )
    cameras = tuple((height, across) for _, height, across in weights.folder.pictures.values())
    encoder = Shape(channels, heads, weights.count_layers("vision.layers."), hidden)
    return CameraShape(encoder, cameras, size, patch, positions, merged, centred)


def _state_prompt_form(folder: PolicyFolder) -> PromptForm:
    """Return pi0.5's prompt format, in which each number of the normalised state is one of 256 bins from -1 to 1."""
    stats = folder.observation_statistics(STATE, "STATE", (folder.state,))
    shift = tuple(
        base - centre * scale for base, centre, scale in zip(stats.base, stats.centre, stats.scale, strict=True)
    )
    return PromptForm(
        PI05_PROMPT, tidied=True, state=StateWords(folder.robot_name(STATE), stats.scale, shift, STATE_BINS)
    )
