"""Transformers of diffusers. One function per class, with the name of the class, reads the interface from a config.

Texts have the length that the caller chooses, or the default one of the class's pipeline. Where the folder lacks the
text encoder, its tokenizer may make them shorter, which is named.
"""

import logging

from fewstep.export.sources.model_files import Config
from fewstep.pipelines.files.folder import Folder
from fewstep.pipelines.listed.call_defaults import FLUX_GUIDANCE, default_guidance
from fewstep.pipelines.listed.interface import (
    ADDED,
    HIDDEN_STATES,
    WRITE_IT,
    Interface,
    NamedCondition,
    make_interface,
    mask_condition,
    number_condition,
    read_sizes,
    read_x_shape,
    setting_condition,
    vector_condition,
)
from fewstep.pipelines.listed.labels import read_labels
from fewstep.plans.errors import UserError
from fewstep.runtime.bundle.manifest import Condition

LOG = logging.getLogger("fewstep")
FLUX_SIZE = 128  # size of a latent, unless the folder's autoencoder defines it
FLUX_PATCH = 2  # side of the squares of latents that are packed into one token
PIXELS, RATIOS = (256.0, 2048.0), (0.25, 4.0)
GUIDANCES = (1.0, 7.0)
HUNYUAN_SIZE = (1024.0, 1024.0)  # default size of the picture from which a latent is cropped
OF_ANY_LENGTH = {  # networks whose pipelines have an argument `max_sequence_length`
    "PixArtTransformer2DModel",
    "SD3Transformer2DModel",
    "FluxTransformer2DModel",
    "SanaTransformer2DModel",
    "AuraFlowTransformer2DModel",
}
MILLI = 1e-3  # the network reads t in [0, 1], while its schedule has timesteps in [0, 1000]


def DiTTransformer2DModel(config: Config, folder: Folder) -> Interface:
    """DiT (Peebles & Xie 2023). Its condition is a label; one more label means "none"."""
    count = config["num_embeds_ada_norm"]
    label = Condition("class", "class_labels", null=count, low=0, high=count - 1, labels=read_labels(folder, count))
    return make_interface(config, read_x_shape(config), [(label, "class_labels")], x=HIDDEN_STATES)


def PixArtTransformer2DModel(config: Config, folder: Folder) -> Interface:
    """PixArt-alpha (Chen et al. 2024, arXiv 2310.00426) and PixArt-sigma. Their condition is an encoded text with its
    mask. PixArt-alpha at 1024 pixels also takes the size of the image."""
    tokens = _text_length(folder, "tokenizer", 300 if "Sigma" in folder.pipeline else 120)
    taken, shape = _text_and_mask(tokens, _caption_width(config)), read_x_shape(config)
    more = config.get("use_additional_conditions")
    if config["sample_size"] == 128 if more is None else more:
        height, width = _image_size(folder, shape)
        taken.append(setting_condition("resolution", f"{ADDED}resolution", (height, width), PIXELS))
        taken.append(setting_condition("aspect_ratio", f"{ADDED}aspect_ratio", (height / width,), RATIOS))
    return make_interface(config, shape, taken, x=HIDDEN_STATES)


def SD3Transformer2DModel(config: Config, folder: Folder) -> Interface:
    """Stable Diffusion 3 and 3.5 (Esser et al. 2024, arXiv 2403.03206): its text condition holds the tokens of CLIP and
    T5 in one sequence."""
    tokens = folder.token_length("tokenizer", 77) + _text_length(folder, "tokenizer_3", 256)
    taken = [
        vector_condition("text", "encoder_hidden_states", tokens, config["joint_attention_dim"]),
        vector_condition("pooled_text", "pooled_projections", config["pooled_projection_dim"]),
    ]
    return make_interface(config, read_x_shape(config), taken, x=HIDDEN_STATES)


def FluxTransformer2DModel(config: Config, folder: Folder) -> Interface:
    """FLUX.1: x is a latent [C, H, W], packed and unpacked outside the network. Distilled versions take the guidance
    weight as a condition. If it has more input than output channels (Fill, Control), the rest is an image."""
    channels_out = int(config.get("out_channels") or config["in_channels"])
    if channels_out % FLUX_PATCH**2 or int(config["in_channels"]) % FLUX_PATCH**2:
        raise UserError(
            f"fewstep does not read a FluxTransformer2DModel with {channels_out} channels out of "
            f"{config['in_channels']}",
            WRITE_IT,
        )
    taken = [
        vector_condition(
            "text", "encoder_hidden_states", _text_length(folder, "tokenizer_2", 512), config["joint_attention_dim"]
        ),
        vector_condition("pooled_text", "pooled_projections", config["pooled_projection_dim"]),
    ]
    if config.get("guidance_embeds"):
        usual = default_guidance(folder.pipeline, FLUX_GUIDANCE)
        taken.append(number_condition("guidance", "guidance", usual, (GUIDANCES[0], max(usual, GUIDANCES[1]))))
    side = folder.config("vae").get("sample_size")
    side = side // folder.pixels_per_latent if isinstance(side, int) else FLUX_SIZE
    unpacked = {"in_channels": int(config["in_channels"]) // FLUX_PATCH**2}
    shape = (channels_out // FLUX_PATCH**2, *read_sizes(side, 2))
    return make_interface(unpacked, shape, taken, x=HIDDEN_STATES, time_scale=MILLI)


def SanaTransformer2DModel(config: Config, folder: Folder) -> Interface:
    """Sana (Xie et al. 2024, arXiv 2410.10629). Its condition is an encoded text with its mask."""
    if config.get("guidance_embeds"):
        raise UserError(
            "fewstep does not read a SanaTransformer2DModel with guidance_embeds, whose time is an angle", WRITE_IT
        )
    taken = _text_and_mask(_text_length(folder, "tokenizer", 300), config["caption_channels"])
    scale = float(config.get("timestep_scale", 1.0))
    return make_interface(config, read_x_shape(config), taken, x=HIDDEN_STATES, time_scale=scale)


def AuraFlowTransformer2DModel(config: Config, folder: Folder) -> Interface:
    """AuraFlow. Its condition is an encoded text, with zeros in place of padding."""
    tokens = _text_length(folder, "tokenizer", 256)
    taken = [vector_condition("text", "encoder_hidden_states", tokens, config["joint_attention_dim"])]
    return make_interface(config, read_x_shape(config), taken, x=HIDDEN_STATES, time_scale=MILLI)


def HunyuanDiT2DModel(config: Config, folder: Folder) -> Interface:
    """HunyuanDiT (Li et al. 2024, arXiv 2405.08748). Its conditions are the texts of two encoders with their masks. Its
    first version also takes the size of the image and a style."""
    shape = (int(config["in_channels"]), *read_sizes(config.get("sample_size"), 2))
    taken = [
        vector_condition("text", "encoder_hidden_states", config["text_len"], config["cross_attention_dim"]),
        mask_condition("text_mask", "text_embedding_mask", config["text_len"]),
        vector_condition(
            "text_t5", "encoder_hidden_states_t5", config["text_len_t5"], config["cross_attention_dim_t5"]
        ),
        mask_condition("text_t5_mask", "text_embedding_mask_t5", config["text_len_t5"]),
    ]
    if config.get("use_style_cond_and_image_meta_size"):
        sizes_and_crop = (*HUNYUAN_SIZE, *_image_size(folder, shape), 0.0, 0.0)
        taken.append(setting_condition("image_meta_size", "image_meta_size", sizes_and_crop, (0.0, 1024.0)))
        taken.append((Condition("style", "style", low=0, high=0, shared=True, default=(0.0,)), "style"))
    return make_interface(config, shape, taken, x=HIDDEN_STATES)


def _text_length(folder: Folder, tokenizer: str, default: int) -> int:
    """Return the number of tokens of a text, as the caller chooses it. Otherwise it is the `default` of the pipeline's
    `max_sequence_length`, to which a pipeline pads whatever its tokenizer's maximum. Without a text encoder, texts may
    have been encoded with that maximum: it is used, and named if it is lower."""
    if folder.text_length is not None:
        return folder.text_length
    encoder = tokenizer.replace("tokenizer", "text_encoder")
    length = default if folder.has(encoder) else folder.token_length(tokenizer, default)
    if length < default:
        LOG.warning(
            "texts of this bundle have %d tokens, as %s says, since the folder has no %s: %s pads them to %d by "
            "default, which changes samples; for texts of that length, set model_max_length in "
            "%s/tokenizer_config.json to %d",
            *(length, tokenizer, encoder, folder.pipeline or "the pipeline", default, tokenizer, default),
        )
    return length


def _text_and_mask(tokens: int, width: int) -> list[NamedCondition]:
    return [
        vector_condition("text", "encoder_hidden_states", tokens, width),
        mask_condition("text_mask", "encoder_attention_mask", tokens),
    ]


def _image_size(folder: Folder, shape: tuple[int, ...]) -> tuple[float, float]:
    """Return (height, width) in pixels of the image whose latent has this shape."""
    return float(shape[1] * folder.pixels_per_latent), float(shape[2] * folder.pixels_per_latent)


def _caption_width(config: Config) -> int:
    return int(config.get("caption_channels") or config["cross_attention_dim"])
