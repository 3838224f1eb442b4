"""The inputs of a bundle's LoRA slots, from LoRA files. Several files act like one file whose rank is the sum of their
ranks."""

import logging
from collections.abc import Sequence
from math import prod

import numpy as np

from fewstep.plans.errors import UserError
from fewstep.runtime.kinds.lora_slots import LoraSlots, slot_port
from fewstep.runtime.lora.aliases import Place
from fewstep.runtime.lora.factors import Factors, factorize
from fewstep.runtime.lora.file import OTHER_NETWORK, Floats, Lora, Parts, first_few
from fewstep.runtime.lora.keys import DENOISER
from fewstep.runtime.lora.shapes import fits_weight, update_shape

LOG = logging.getLogger("fewstep")
MERGE = "merge it into a bundle: fewstep export SOURCE -o BUNDLE --lora FILE"


def slot_values(slots: LoraSlots, loras: Sequence[Lora], network: str = "this network") -> dict[str, Floats]:
    """Return, by name, the graph inputs (slots) that pass the weights of these LoRA files to a network.

    Raises UserError for a file of another network, or one that changes a layer without a slot.
    """
    by_layer: dict[str, list[Factors]] = {}
    for lora in loras:
        for layer, place in lora.match_layers(slots.names, network).items():
            if without := [name for name in place.layers if name not in slots.layers]:
                fix = "export with --lora-slots for them too, or merge it"
                raise UserError(f"{lora.name} changes {first_few(without)}, which has no slot for a LoRA", fix)
            for name, update in zip(place.layers, _layer_factors(slots, lora, layer, place), strict=True):
                by_layer.setdefault(name, []).append(update)
        if encoders := sum(component != DENOISER for component, _ in lora.updates):
            LOG.warning("%s also changes %d layers of text encoders, which are left unchanged", lora.name, encoders)
    inputs: dict[str, Floats] = {}
    for layer, parts in by_layer.items():
        up, down = np.concatenate([p.up for p in parts], axis=1), np.concatenate([p.down for p in parts])
        if len(down) > slots.rank:
            what = (
                f"{', '.join(lora.name for lora in loras)}: rank {len(down)} at {layer!r}, but slots take {slots.rank}"
            )
            raise UserError(what, f"export with --rank {len(down)}")
        _, channels, *kernel = slots.layers[layer]
        inputs[slot_port(layer, "down")] = np.ascontiguousarray(
            down.reshape(-1, channels, *kernel) if kernel else down.T
        )
        inputs[slot_port(layer, "up")] = np.ascontiguousarray(
            up.reshape(*up.shape, *[1] * len(kernel)) if kernel else up.T
        )
    return inputs


def _layer_factors(slots: LoraSlots, lora: Lora, layer: str, place: Place) -> list[Factors]:
    """Return the LoRA factors for the layers of a place, which one layer of the file updates together, multiplied by
    the file's strength."""
    parts = lora.updates[DENOISER, layer]
    shapes = [slots.layers[name] for name in place.layers]
    if {"magnitude", "dora_scale"} & parts.keys():
        raise UserError(f"{lora.name} is a DoRA file, whose update depends on the weights themselves", MERGE)
    if {"diff_b", "up_bias"} & parts.keys():
        raise UserError(f"{lora.name} changes the bias of {layer!r}, which has no slot", MERGE)
    try:
        product = factorize(parts, lora.scale(DENOISER, layer))
    except ValueError:
        raise _misfit_error(lora, layer, shapes, parts) from None
    whole = (sum(shape[0] for shape in shapes), *shapes[0][1:])
    if len({prod(shape[1:]) for shape in shapes}) > 1 or not fits_weight(update_shape(parts), whole):
        raise _misfit_error(lora, layer, shapes, parts)
    with np.errstate(over="ignore"):
        up = np.float32(lora.strength) * product.up
    if not np.isfinite(up).all():
        what = f"the update of {layer!r} in {lora.name} overflows"
        raise UserError(what, "check its alpha, and give a smaller strength")
    if place.is_swapped:
        up = np.roll(up, len(up) // 2, axis=0)
    ends = np.cumsum([shape[0] for shape in shapes])[:-1]
    return [Factors(part, product.down) for part in np.split(up, ends)]


def _misfit_error(lora: Lora, layer: str, shapes: Sequence[tuple[int, ...]], parts: Parts) -> UserError:
    weights = ", ".join(str(list(shape)) for shape in shapes)
    update = ", ".join(f"{part} {list(array.shape)}" for part, array in parts.items() if part != "alpha")
    return UserError(f"{lora.name}: {layer!r} has a weight of {weights}, but the file has {update}", OTHER_NETWORK)
