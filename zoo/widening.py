"""Start the U-Net from the trained weights of a narrower one (Net2WiderNet, Chen et al. 2016, arXiv 1511.05641).

New channels are copies of old ones. A copy stays in the group of its channel, so what a GroupNorm computes changes
little. Copies share the weight of what they feed unequally, since equal copies would never differ.
"""

from collections.abc import Mapping

import torch
from torch import Tensor

GROUPS = 8  # of each GroupNorm
UNEQUAL = 0.2  # the first copy has 0.3 to 0.7 of a weight
UNCHANGED = ("time_mlp", "label_embedding")  # blocks without channels of images
LEVELS = {  # channels of the inputs and outputs of blocks, by their place in `channels`; other blocks have the last
    "conv_in": (None, 0),
    "down32": (0, 0),
    "to16": (0, 0),
    "down16a": (0, 1),
    "down16b": (1, 1),
    "to8": (1, 1),
    "down8a": (1, 2),
    "from8": (2, 1),
    "up16a": (1, 1),
    "up16b": (1, 1),
    "from16": (1, 0),
    "up32": (0, 0),
    "norm_out": (0, 0),
    "conv_out": (0, None),
}

Channels = tuple[int, int, int]  # at 32, 16 and 8 pixels


class Copies:
    """The old channel that each new one copies: all of a group in order, and then some of them again."""

    def __init__(self, old: int, new: int) -> None:
        size, wide = old // GROUPS, new // GROUPS
        self.old = old
        self.source = torch.cat([torch.arange(wide) % size + group * size for group in range(GROUPS)])
        self.count = torch.bincount(self.source)[self.source]
        self.is_first = torch.arange(new) % wide < size

    def rows(self, count: int) -> Tensor:
        """Return the sources along an axis that had `count` rows, one or several parts of `old` channels."""
        return torch.cat([self.source + start for start in range(0, count, self.old)])

    def widen(self, tensor: Tensor, axis: int = 0) -> Tensor:
        """Copy the rows of an axis."""
        return tensor.index_select(axis, self.rows(tensor.shape[axis]))

    def share(self, weight: Tensor, generator: torch.Generator) -> Tensor:
        """Copy the inputs (axis 1) of a weight. The weights of all copies of a channel add up to the old weight."""
        rows, parts = self.rows(weight.shape[1]), weight.shape[1] // self.old
        drawn = 0.5 + UNEQUAL * (2 * torch.rand(weight.shape[:2], generator=generator) - 1)[:, rows]
        halves = torch.where(self.is_first.repeat(parts), drawn, 1 - drawn)
        shares = torch.where((self.count == 2).repeat(parts), halves, 1.0)
        return self.widen(weight, 1) * shares.reshape(*shares.shape, *[1] * (weight.dim() - 2))


def widen_unet(weights: Mapping[str, Tensor], old: Channels, new: Channels) -> dict[str, Tensor]:
    """Return the weights of `fewstep.models.cifar10.unet.UNet` with `new` channels, from those with `old` channels.

    A level has at most twice as many channels. `time_mlp.0` is left out, as time features have another number.
    """
    levels = [Copies(*pair) for pair in zip(old, new, strict=True)]
    generator = torch.Generator().manual_seed(0)
    widened = dict[str, Tensor]()
    for name, tensor in weights.items():
        if name.startswith("time_mlp.0"):
            continue
        source, target = _levels_of(name, tensor.dim() > 1)
        wide = tensor if target is None else levels[target].widen(tensor)
        wide = wide if source is None else levels[source].share(wide, generator)
        widened[name] = _scale_query(wide, levels[2], new[2] / old[2]) if ".qkv." in name else wide
    return widened


def _levels_of(name: str, is_weight: bool) -> tuple[int | None, int | None]:
    """Return the levels of the inputs and outputs of a tensor, None where its channels stay."""
    block, _, rest = name.partition(".")
    layer = rest.partition(".")[0]
    if block in UNCHANGED:
        return None, None
    source, target = LEVELS.get(block, (2, 2))
    if layer in ("norm1", "norm") or block == "norm_out":
        return None, source
    if not is_weight or layer == "modulation":
        return None, target
    return (target if layer == "conv2" else source), target


def _scale_query(tensor: Tensor, copies: Copies, growth: float) -> Tensor:
    """Scale the queries of queries, keys and values, so that their products with keys stay.

    A channel counts once for each of its copies, and attention divides by the root of the channels.
    """
    query, others = tensor.split([len(tensor) // 3, len(tensor) - len(tensor) // 3])
    scales = growth**0.5 / copies.count
    return torch.cat([query * scales.reshape(-1, *[1] * (tensor.dim() - 1)), others])
