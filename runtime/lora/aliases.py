"""The names that layers of diffusers' networks have in the networks' original code. Other trainers use them."""

import re
from collections.abc import Collection, Iterator

Aliases = Iterator[tuple[str, tuple[str, ...]]]  # (a name, its layers); of several, the outputs are concatenated

RESNET = {  # layers in a residual block of the latent diffusion UNet (Rombach et al. 2022)
    "in_layers.2": "conv1",
    "emb_layers.1": "time_emb_proj",
    "out_layers.3": "conv2",
    "skip_connection": "conv_shortcut",
}
UNET = {  # outside its blocks
    "input_blocks.0.0": "conv_in",
    "time_embed.0": "time_embedding.linear_1",
    "time_embed.2": "time_embedding.linear_2",
    "label_emb.0.0": "add_embedding.linear_1",
    "label_emb.0.2": "add_embedding.linear_2",
    "out.2": "conv_out",
}
QKV, ADDED_QKV = ("to_q", "to_k", "to_v"), ("add_q_proj", "add_k_proj", "add_v_proj")
DOUBLE = {  # a block of FLUX with two separate streams: part -> layers of transformer_blocks.N
    "img_attn.qkv": tuple(f"attn.{part}" for part in QKV),
    "txt_attn.qkv": tuple(f"attn.{part}" for part in ADDED_QKV),
    "img_attn.proj": ("attn.to_out.0",),
    "txt_attn.proj": ("attn.to_add_out",),
    "img_mlp.0": ("ff.net.0.proj",),
    "img_mlp.2": ("ff.net.2",),
    "txt_mlp.0": ("ff_context.net.0.proj",),
    "txt_mlp.2": ("ff_context.net.2",),
    "img_mod.lin": ("norm1.linear",),
    "txt_mod.lin": ("norm1_context.linear",),
}
SINGLE = {  # a block of FLUX with one joint stream: layers of single_transformer_blocks.N
    "linear1": (*(f"attn.{part}" for part in QKV), "proj_mlp"),
    "linear2": ("proj_out",),
    "modulation.lin": ("norm.linear",),
}
FLUX = {  # outside its blocks
    "img_in": "x_embedder",
    "txt_in": "context_embedder",
    "time_in.in_layer": "time_text_embed.timestep_embedder.linear_1",
    "time_in.out_layer": "time_text_embed.timestep_embedder.linear_2",
    "vector_in.in_layer": "time_text_embed.text_embedder.linear_1",
    "vector_in.out_layer": "time_text_embed.text_embedder.linear_2",
    "guidance_in.in_layer": "time_text_embed.guidance_embedder.linear_1",
    "guidance_in.out_layer": "time_text_embed.guidance_embedder.linear_2",
    "final_layer.linear": "proj_out",
}
JOINT = {  # a block of Stable Diffusion 3: layers of transformer_blocks.N
    "x_block.attn.qkv": tuple(f"attn.{part}" for part in QKV),
    "context_block.attn.qkv": tuple(f"attn.{part}" for part in ADDED_QKV),
    "x_block.attn.proj": ("attn.to_out.0",),
    "context_block.attn.proj": ("attn.to_add_out",),
    "x_block.mlp.fc1": ("ff.net.0.proj",),
    "x_block.mlp.fc2": ("ff.net.2",),
    "context_block.mlp.fc1": ("ff_context.net.0.proj",),
    "context_block.mlp.fc2": ("ff_context.net.2",),
}


def aliases(names: Collection[str]) -> Aliases:
    """Yield other names of the layers of a diffusers network. For an unknown network it yields nothing."""
    if any(re.match(r"down_blocks\.0\.resnets\.\d+\.", name) for name in names):
        yield from _unet(names)
    if any(name.startswith("single_transformer_blocks.") for name in names):
        yield from _single_layers(FLUX, names)
        yield from _blocks_by_number("double_blocks", DOUBLE, "transformer_blocks", names)
        yield from _blocks_by_number("single_blocks", SINGLE, "single_transformer_blocks", names)
    elif any(name.startswith("transformer_blocks.") for name in names):
        yield from _blocks_by_number("joint_blocks", JOINT, "transformer_blocks", names)


def _single_layers(table: dict[str, str], names: Collection[str]) -> Aliases:
    for alias, name in table.items():
        if name in names:
            yield alias, (name,)


def _blocks_by_number(theirs: str, table: dict[str, tuple[str, ...]], ours: str, names: Collection[str]) -> Aliases:
    """Yield the aliases of layers in blocks that have the same number in both codebases: each alias, and the layers
    that it stands for."""
    for number in {match[1] for name in names if (match := re.match(rf"{ours}\.(\d+)\.", name))}:
        for alias, parts in table.items():
            layers = tuple(f"{ours}.{number}.{part}" for part in parts)
            if all(layer in names for layer in layers):
                yield f"{theirs}.{number}.{alias}", layers


def _unet(names: Collection[str]) -> Aliases:
    """Yield the names of the latent diffusion UNet, which numbers its blocks through all resolutions:

    down_blocks.i: L residual blocks, with or without attention, then a downsampler   input_blocks.1 + i (L + 1) ..
    up_blocks.i: L + 1 residual blocks, the last one also with an upsampler           output_blocks.i (L + 1) ..
    """
    yield from _single_layers(UNET, names)
    each = 1 + max(int(match[1]) for name in names if (match := re.match(r"down_blocks\.0\.resnets\.(\d+)\.", name)))
    for name in names:
        if match := re.match(r"(down|up)_blocks\.(\d+)\.(resnets|attentions)\.(\d+)\.(.+)", name):
            side, block, kind, number, rest = match.groups()
            first = 1 if side == "down" else 0
            place = f"{'in' if first else 'out'}put_blocks.{first + int(block) * (each + 1) + int(number)}"
            yield from _block_layer(place, kind, ("resnets", "attentions").index(kind), rest, name)
        elif match := re.match(r"mid_block\.(resnets|attentions)\.(\d+)\.(.+)", name):
            kind, number, rest = match.groups()
            yield from _block_layer("middle_block", kind, 1 if kind == "attentions" else 2 * int(number), rest, name)
        elif match := re.fullmatch(r"down_blocks\.(\d+)\.downsamplers\.0\.conv", name):
            yield f"input_blocks.{(int(match[1]) + 1) * (each + 1)}.0.op", (name,)
        elif match := re.fullmatch(r"up_blocks\.(\d+)\.upsamplers\.0\.conv", name):
            has_attention = any(other.startswith(f"up_blocks.{match[1]}.attentions.") for other in names)
            place = f"output_blocks.{int(match[1]) * (each + 1) + each}.{1 + has_attention}"
            yield f"{place}.conv", (name,)


def _block_layer(place: str, kind: str, position: int, rest: str, name: str) -> Aliases:
    """Yield the name of a layer of a residual block or an attention block. Names within an attention block are the same
    in both codebases."""
    if kind == "attentions":
        yield f"{place}.{position}.{rest}", (name,)
    else:
        for alias, ours in RESNET.items():
            if rest == ours:
                yield f"{place}.{position}.{alias}", (name,)
