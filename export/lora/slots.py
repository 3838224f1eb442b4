"""Select the layers of a module that get inputs for LoRA weights at run time (slots), and find the graphs that contain
them."""

import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase
from typing import TYPE_CHECKING

import msgspec

from fewstep.export.lora.merge import layers_with_weights
from fewstep.graph.graph import Graph
from fewstep.plans.errors import UserError
from fewstep.runtime.kinds.lora_slots import LoraSlots, slot_port
from fewstep.runtime.lora.file import first_few

if TYPE_CHECKING:
    import torch

LOG = logging.getLogger("fewstep")
GREATEST_RANK = 4096


@dataclass(frozen=True)
class SlotRequest:
    """Which layers get inputs for LoRA weights (slots): names of modules, parts of names, or patterns like
    "attn*.to_q". `rank` is the maximum sum of the ranks of the LoRA files of a layer."""

    layers: Sequence[str] = ()
    rank: int = 64

    def __post_init__(self) -> None:
        if not 1 <= self.rank <= GREATEST_RANK:
            raise UserError(f"--rank is {self.rank}", f"give 1 to {GREATEST_RANK}")

    def __bool__(self) -> bool:
        return bool(self.layers)


NO_SLOTS = SlotRequest()


def find_slots(module: "torch.nn.Module", asked: SlotRequest) -> LoraSlots:
    """Return the layers that get inputs for LoRA weights (slots): linear layers, and convolutions without groups, whose
    names match the request. Raises UserError for a name that matches none."""
    import torch

    from fewstep.export.error_text import module_name

    kinds = (torch.nn.Linear, torch.nn.Conv1d, torch.nn.Conv2d, torch.nn.Conv3d)
    names = layers_with_weights(module)
    shapes = {
        name: tuple(layer.weight.shape)
        for name, layer in names.items()
        if isinstance(layer, kinds) and getattr(layer, "groups", 1) == 1
    }
    taken: dict[str, tuple[int, ...]] = {}
    for pattern in asked.layers:
        own = {name: shape for name, shape in shapes.items() if fnmatchcase(f".{name}.", f"*.{pattern}.*")}
        if not own:
            what = f"--lora-slots {pattern}: {module_name(module)} has no such linear layer or convolution"
            raise UserError(what, f"choose from {first_few(shapes)}, or give '*' for all" if shapes else "leave it out")
        taken |= own
    return LoraSlots(asked.rank, taken, tuple(names), {})


def place_slots(slots: LoraSlots, graphs: Mapping[str, Graph]) -> LoraSlots:
    """Return the slots for LoRA weights that the graphs contain, and in which graph each one is. Raises UserError if no
    graph contains any."""
    optional = {part: {value.name for value in graph.optional} for part, graph in graphs.items()}
    where = {
        part: tuple(layer for layer in slots.layers if slot_port(layer, "up") in names)
        for part, names in optional.items()
    }
    kept = set[str]().union(*where.values())
    lost = [layer for layer in slots.layers if layer not in kept]
    if not kept:
        raise UserError(
            f"{first_few(lost)} have no matrix product or convolution in the graph",
            "choose other layers for --lora-slots",
        )
    if lost:
        LOG.warning("%s have no matrix product or convolution in the graph, and get no slot", first_few(lost))
    layers = {layer: shape for layer, shape in slots.layers.items() if layer in kept}
    return msgspec.structs.replace(slots, layers=layers, graphs={part: own for part, own in where.items() if own})
