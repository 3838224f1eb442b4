"""Merge LoRA files into a denoiser before it is traced. The merged network is as fast as the original."""

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from fewstep.plans.errors import UserError
from fewstep.runtime.lora.file import OTHER_NETWORK, AlphaScale, Lora, Parts
from fewstep.runtime.lora.keys import DENOISER, Component

if TYPE_CHECKING:
    import torch

    from fewstep.export.lora.delta import Tensors


def merge(module: "torch.nn.Module", lora: Lora, component: Component = DENOISER) -> None:
    """Add a LoRA file's update for the network `component` to the weights of its module, in float32. Strength 0 changes
    nothing, except that the magnitudes of a DoRA of peft rescale the weights, as in peft.

    Raises UserError if the module lacks a layer or its shape differs; then nothing is changed. Also raises UserError if
    a weight exceeds float32; then the module is unusable.
    """
    targets = layers_with_weights(module)
    places = lora.match_layers(tuple(targets), type(module).__name__, component)
    updates = [
        (layer, [targets[name] for name in names], _to_tensors(lora.updates[component, layer]))
        for layer, names in places.items()
    ]
    for layer, layers, parts in updates:  # check shapes first, so that a failure changes nothing
        _check_fit(lora, layer, layers, parts)
    for layer, layers, parts in updates:
        if lora.strength == 0 and "magnitude" not in parts:
            continue
        for own, name, value in _updates(layers, parts, lora.scale(component, layer), lora.strength):
            if not bool(value.isfinite().all()):
                what = f"{lora.name} turns weights of {layer!r} into NaN or infinity"
                raise UserError(what, "check its alpha, and give a smaller strength")
            setattr(own, name, _parameter(value.contiguous()))  # other layers may share the previous one


def refuse_added_doras(module: "torch.nn.Module", loras: Sequence[Lora], component: Component = DENOISER) -> None:
    """Raise UserError if one file has magnitudes (DoRA) for a layer that another file changes too.

    diffusers has two results: fuse_lora rescales the sum of the weight and both updates, and active adapters add what
    each does to the weight alone.
    """
    names = tuple(layers_with_weights(module))
    changed: dict[str, tuple[Lora, bool]] = {}
    for lora in loras:
        for layer, places in lora.match_layers(names, type(module).__name__, component).items():
            is_dora = bool({"magnitude", "dora_scale"} & lora.updates[component, layer].keys())
            for place in places:
                other, has_dora = changed.setdefault(place, (lora, is_dora))
                if other is not lora and (is_dora or has_dora):
                    what = f"{other.name} and {lora.name} both change layer {place!r}, and one of them is a DoRA"
                    raise UserError(what, "merge both with diffusers' fuse_lora, and export the merged network")


def _to_tensors(parts: Parts) -> "Tensors":
    """Return the parts as torch tensors."""
    import torch

    return {part: torch.from_numpy(array) for part, array in parts.items()}


def _check_fit(lora: Lora, layer: str, layers: "Sequence[Any]", parts: "Tensors") -> None:
    """Raise UserError if an update does not have the shape of its layers."""
    try:
        _updates(layers, {part: tensor.to("meta") for part, tensor in parts.items() if part != "alpha"}, AlphaScale())
    except (ValueError, IndexError, RuntimeError) as error:
        shapes = ", ".join(str(list(each.weight.shape)) for each in layers)
        update = ", ".join(f"{part} {list(tensor.shape)}" for part, tensor in parts.items() if part != "alpha")
        reason = error if isinstance(error, ValueError) else "these do not fit each other"  # replaces torch's message
        what = f"{lora.name}: {layer!r} has a weight of {shapes}, but the file has {update}: {reason}"
        raise UserError(what, OTHER_NETWORK) from error


def _updates(
    layers: "Sequence[Any]", parts: "Tensors", scale: AlphaScale, strength: float = 1.0
) -> "list[tuple[torch.nn.Module, str, torch.Tensor]]":
    """Return (layer, "weight" or "bias", new value) for the weights of `layers`, and for the bias of a single layer.
    The file holds one update for several layers, with their outputs concatenated in this order."""
    import torch

    from fewstep.export.lora.delta import apply_update

    device = next(tensor.device for part, tensor in parts.items() if part != "alpha")
    changes: list[tuple[torch.nn.Module, str, torch.Tensor]] = []
    if set(parts) - {"diff_b", "alpha"}:
        weights = [layer.weight for layer in layers]
        whole = torch.cat([weight.detach().to(device).float() for weight in weights])
        values = apply_update(whole, parts, scale, strength).split([len(weight) for weight in weights])
        changes += [(layer, "weight", value) for layer, value in zip(layers, values, strict=True)]
    if (change := parts.get("diff_b")) is not None:
        bias = getattr(layers[0], "bias", None) if len(layers) == 1 else None
        if bias is None or bias.shape != change.shape:
            raise ValueError("the bias update does not fit the layer's bias")
        changes.append((layers[0], "bias", bias.detach().to(device).float() + strength * change))
    return changes


def _parameter(value: "torch.Tensor") -> "torch.nn.Parameter":
    import torch

    return torch.nn.Parameter(value, requires_grad=False)


def layers_with_weights(module: "torch.nn.Module") -> "dict[str, Any]":
    """Return the layers of a module that have their own weight [out, in, ...], by name."""
    import torch

    transposed = (torch.nn.ConvTranspose1d, torch.nn.ConvTranspose2d, torch.nn.ConvTranspose3d)  # [in, out, ...]
    return {
        name: layer
        for name, layer in module.named_modules()
        if isinstance(getattr(layer, "weight", None), torch.nn.Parameter) and not isinstance(layer, transposed)
    }
