"""The names that layers of diffusers' networks have in the networks' original code. Other trainers use them."""

import re
from collections.abc import Collection, Iterator
from dataclasses import dataclass

from fewstep.runtime.lora.original_names import FAMILIES, OriginalNames


@dataclass(frozen=True)
class Place:
    """The layers that a name of a file stands for. If there are several, the file has their outputs concatenated in
    this order. If `is_swapped`, it has the second half of the outputs first."""

    layers: tuple[str, ...]
    is_swapped: bool = False


Aliases = Iterator[tuple[str, Place]]

RESNET = {  # layers in a residual block of the latent diffusion UNet (Rombach et al. 2022)
    "in_layers.0": "norm1",
    "in_layers.2": "conv1",
    "emb_layers.1": "time_emb_proj",
    "out_layers.0": "norm2",
    "out_layers.3": "conv2",
    "skip_connection": "conv_shortcut",
}
UNET = {  # outside its blocks
    "input_blocks.0.0": "conv_in",
    "time_embed.0": "time_embedding.linear_1",
    "time_embed.2": "time_embedding.linear_2",
    "label_emb.0.0": "add_embedding.linear_1",
    "label_emb.0.2": "add_embedding.linear_2",
    "out.0": "conv_norm_out",
    "out.2": "conv_out",
}


def aliases(names: Collection[str]) -> Aliases:
    """Yield other names of the layers of a diffusers network. For an unknown network it yields nothing."""
    if any(re.match(r"down_blocks\.0\.resnets\.\d+\.", name) for name in names):
        yield from _unet(names)
    numbers: dict[str, list[str]] = {}  # the name of a layer with N for its block's number -> these numbers
    for name in names:
        if match := re.fullmatch(r"([a-z_.]+)\.(\d+)\.(.+)", name):
            numbers.setdefault(f"{match[1]}.N.{match[3]}", []).append(match[2])
    family = next((candidate for candidate in FAMILIES if candidate.mark in numbers or candidate.mark in names), None)
    if family is not None:
        yield from _original_names(family, numbers, names)


def _original_names(family: OriginalNames, numbers: dict[str, list[str]], names: Collection[str]) -> Aliases:
    for alias, parts in family.table.items():
        own = (parts,) if isinstance(parts, str) else parts
        for number in numbers.get(own[0], ()) if ".N." in own[0] else ("",):
            layers = tuple(layer.replace(".N.", f".{number}.") for layer in own)
            if all(layer in names for layer in layers):
                without = family.swapped_without.get(alias)
                is_last = without is not None and without.replace(".N.", f".{number}.") not in names
                yield alias.replace(".N.", f".{number}."), Place(layers, alias in family.swapped or is_last)


def _unet(names: Collection[str]) -> Aliases:
    """Yield the names of the latent diffusion UNet, which numbers its blocks through all resolutions:

    down_blocks.i: L residual blocks, with or without attention, then a downsampler   input_blocks.1 + i (L + 1) ..
    up_blocks.i: L + 1 residual blocks, the last one also with an upsampler           output_blocks.i (L + 1) ..
    """
    for alias, name in UNET.items():
        if name in names:
            yield alias, Place((name,))
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
            yield f"input_blocks.{(int(match[1]) + 1) * (each + 1)}.0.op", Place((name,))
        elif match := re.fullmatch(r"up_blocks\.(\d+)\.upsamplers\.0\.conv", name):
            has_attention = any(other.startswith(f"up_blocks.{match[1]}.attentions.") for other in names)
            place = f"output_blocks.{int(match[1]) * (each + 1) + each}.{1 + has_attention}"
            yield f"{place}.conv", Place((name,))


def _block_layer(place: str, kind: str, position: int, rest: str, name: str) -> Aliases:
    """Yield the name of a layer of a residual block or an attention block. Names within an attention block are the same
    in both codebases."""
    if kind == "attentions":
        yield f"{place}.{position}.{rest}", Place((name,))
    else:
        for alias, ours in RESNET.items():
            if rest == ours:
                yield f"{place}.{position}.{alias}", Place((name,))
