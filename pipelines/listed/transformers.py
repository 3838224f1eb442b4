"""Transformers of diffusers. One function per class, with the name of the class, reads the interface from a config."""

import logging

from fewstep.export.sources.model_files import Config
from fewstep.pipelines.files.folder import INDEX, Folder
from fewstep.pipelines.listed.call_defaults import FLUX_GUIDANCE, GUIDANCE, call_default
from fewstep.pipelines.listed.interface import (
    HIDDEN_STATES,
    WRITE_IT,
    Interface,
    make_interface,
    number_condition,
    read_sizes,
    read_x_shape,
    vector_condition,
)
from fewstep.pipelines.relations.labels import name_labels
from fewstep.plans.errors import UserError
from fewstep.runtime.bundle.manifest import Condition

LOG = logging.getLogger("fewstep")
FLUX_TOKENS = 512  # default length of its texts
FLUX_SIZE = 128  # size of a latent, unless the folder's autoencoder defines it
FLUX_PATCH = 2  # side of the squares of latents that are packed into one token
GUIDANCES = (1.0, 7.0)
MILLI = 1e-3  # the network reads t in [0, 1], while its schedule has timesteps in [0, 1000]


def DiTTransformer2DModel(config: Config, folder: Folder) -> Interface:
    """DiT (Peebles & Xie 2023). Its condition is a label; one more label means "none"."""
    count = config["num_embeds_ada_norm"]
    named = folder.index.get("id2label") if (folder.path / INDEX).is_file() else None
    label = Condition("class", "class_labels", null=count, low=0, high=count - 1, labels=name_labels(named, count))
    return make_interface(config, read_x_shape(config), [(label, "class_labels")], x=HIDDEN_STATES)


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
        vector_condition("text", "encoder_hidden_states", _text_length(folder), config["joint_attention_dim"]),
        vector_condition("pooled_text", "pooled_projections", config["pooled_projection_dim"]),
    ]
    if config.get("guidance_embeds"):
        usual = call_default(folder.pipeline, GUIDANCE, FLUX_GUIDANCE)
        taken.append(number_condition("guidance", "guidance", usual, (GUIDANCES[0], max(usual, GUIDANCES[1]))))
    side = folder.config("vae").get("sample_size")
    side = side // folder.pixels_per_latent if isinstance(side, int) else FLUX_SIZE
    unpacked = {"in_channels": int(config["in_channels"]) // FLUX_PATCH**2}
    shape = (channels_out // FLUX_PATCH**2, *read_sizes(side, 2))
    return make_interface(unpacked, shape, taken, x=HIDDEN_STATES, time_scale=MILLI)


def _text_length(folder: Folder) -> int:
    """Return the number of tokens of a text, as the caller chooses it. Otherwise it is the default of the pipeline's
    `max_sequence_length`, to which it pads whatever its tokenizer's maximum. Without a text encoder, texts may have
    been encoded with that maximum: it is used, and named if it is lower."""
    if folder.text_length is not None:
        return folder.text_length
    encoder, tokenizer = "text_encoder_2", "tokenizer_2"
    length = FLUX_TOKENS if folder.has(encoder) else folder.token_length(tokenizer, FLUX_TOKENS)
    if length < FLUX_TOKENS:
        LOG.warning(
            "texts of this bundle have %d tokens, as %s says, since the folder has no %s: %s pads them to %d by "
            "default, which changes samples; for texts of that length, set model_max_length in "
            "%s/tokenizer_config.json to %d",
            *(length, tokenizer, encoder, folder.pipeline or "the pipeline", FLUX_TOKENS, tokenizer, FLUX_TOKENS),
        )
    return length
