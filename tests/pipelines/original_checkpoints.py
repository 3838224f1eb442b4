"""Checkpoints with the names of the original code, made from networks of diffusers."""

import re
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

from fewstep.export.lora.merge import layers_with_weights
from fewstep.runtime.lora.aliases import aliases
from fewstep.runtime.lora.original_names import WAN


def unet_checkpoint(unet: nn.Module, prefix: str = "model.diffusion_model.") -> dict[str, Tensor]:
    """Return the weights of a UNet of Stable Diffusion in the names of latent diffusion."""
    names = {place.layers[0]: alias for alias, place in aliases(layers_with_weights(unet))}
    state = unet.state_dict()
    return {f"{prefix}{names[layer]}.{kind}": state[f"{layer}.{kind}"] for layer, kind in map(_split, state)}


def autoencoder_checkpoint(network: nn.Module, prefix: str = "first_stage_model.") -> dict[str, Tensor]:
    """Return the weights of an autoencoder in the names of latent diffusion, with attention as 1x1 convolutions."""
    blocks = len(network.config.block_out_channels)  # type: ignore[arg-type, union-attr]
    rules = (
        (r"mid_block\.resnets\.(\d)", lambda match: f"mid.block_{int(match[1]) + 1}"),
        (r"mid_block\.attentions\.0\.group_norm", "mid.attn_1.norm"),
        (r"mid_block\.attentions\.0\.to_out\.0", "mid.attn_1.proj_out"),
        (r"mid_block\.attentions\.0\.to_", "mid.attn_1."),
        (r"down_blocks\.(\d)\.resnets", r"down.\1.block"),
        (r"down_blocks\.(\d)\.downsamplers\.0", r"down.\1.downsample"),
        (r"up_blocks\.(\d)\.resnets", lambda match: f"up.{blocks - 1 - int(match[1])}.block"),
        (r"up_blocks\.(\d)\.upsamplers\.0", lambda match: f"up.{blocks - 1 - int(match[1])}.upsample"),
        ("conv_shortcut", "nin_shortcut"),
        ("conv_norm_out", "norm_out"),
    )
    weights = {}
    for name, tensor in network.state_dict().items():
        is_matrix = tensor.ndim == 2 and "attentions" in name
        for pattern, new in rules:
            name = re.sub(pattern, new, name)
        weights[prefix + name] = tensor[..., None, None] if is_matrix else tensor
    return weights


def clip_checkpoint(network: nn.Module, prefix: str = "cond_stage_model.transformer.") -> dict[str, Tensor]:
    names = {name: name if name.startswith("text_model.") else f"text_model.{name}" for name in network.state_dict()}
    return {prefix + names[name]: tensor for name, tensor in network.state_dict().items()}


def stable_diffusion_checkpoint(pipeline: Any) -> dict[str, Tensor]:
    """Return the weights of all networks of a pipeline, and the schedule, as a file of Stable Diffusion 1 has them."""
    parts = unet_checkpoint(pipeline.unet), autoencoder_checkpoint(pipeline.vae), clip_checkpoint(pipeline.text_encoder)
    positions = {"cond_stage_model.transformer.text_model.embeddings.position_ids": torch.arange(77)[None]}
    schedule = {"alphas_cumprod": torch.linspace(1, 0, 1000)}
    return {name: tensor.contiguous() for part in (*parts, positions, schedule) for name, tensor in part.items()}


def wan_checkpoint(network: nn.Module, prefix: str = "") -> dict[str, Tensor]:
    return {prefix + name: tensor for name, tensor in _renamed(network, WAN.table).items()}


def _renamed(network: nn.Module, table: Mapping[str, Any]) -> dict[str, Tensor]:
    """Return the weights in the names of a table without fused layers."""
    own = {name: alias for alias, name in table.items()}
    weights = {}
    for name, tensor in network.state_dict().items():
        layer, kind = _split(name)
        number = match[1] if (match := re.search(r"\.(\d+)\.", name)) else ""
        form, whole = (text.replace(f".{number}.", ".N.", 1) if number else text for text in (layer, name))
        new = own[whole] if whole in own else f"{own.get(form, own.get(layer, form))}.{kind}" if kind else form
        weights[new.replace(".N.", f".{number}.")] = tensor
    return weights


def _split(name: str) -> tuple[str, str]:
    layer, _, kind = name.rpartition(".")
    return layer, kind
