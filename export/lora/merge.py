"""Merge LoRA files into a denoiser before it is traced. The merged network is as fast as the original."""

from collections.abc import Sequence
from dataclasses import dataclass
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
    updates = _check_layers(module, lora, component)  # first, so that a failure changes nothing
    for layer, target, parts in updates:
        if lora.strength == 0 and "magnitude" not in parts:
            continue
        for own, name, value in _updates(target, parts, lora.scale(component, layer), lora.strength):
            if not bool(value.isfinite().all()):
                what = f"{lora.name} turns weights of {layer!r} into NaN or infinity"
                raise UserError(what, "check its alpha, and give a smaller strength")
            setattr(own, name, _parameter(value.contiguous()))  # other layers may share the previous one


def check_fit(module: "torch.nn.Module", lora: Lora) -> None:
    """Raise UserError if the denoiser lacks a layer of the file's update, or if a shape differs. Only shapes are read,
    so the module may be without memory, on the device "meta"."""
    _check_layers(module, lora, DENOISER)


def _check_layers(module: "torch.nn.Module", lora: Lora, component: Component) -> "list[tuple[str, Targets, Tensors]]":
    """Return each layer of the file with the weights that it changes and the parts of its update."""
    from fewstep.export.error_text import module_name

    layers = layers_with_weights(module) | lone_parameters(module)
    updates = []
    for layer, place in lora.match_layers(tuple(layers), module_name(module), component).items():
        targets = Targets(tuple(layers[name] for name in place.layers), place.is_swapped)
        updates.append((layer, targets, _to_tensors(lora.updates[component, layer])))
        _check_fit(lora, *updates[-1])
    return updates


def refuse_added_doras(module: "torch.nn.Module", loras: Sequence[Lora], component: Component = DENOISER) -> None:
    """Raise UserError if one file has magnitudes (DoRA) for a layer that another file changes too.

    diffusers has two results: fuse_lora rescales the sum of the weight and both updates, and active adapters add what
    each does to the weight alone.
    """
    from fewstep.export.error_text import module_name

    names = tuple(layers_with_weights(module) | lone_parameters(module))
    changed: dict[str, tuple[Lora, bool]] = {}
    for lora in loras:
        for layer, place in lora.match_layers(names, module_name(module), component).items():
            is_dora = bool({"magnitude", "dora_scale"} & lora.updates[component, layer].keys())
            for own in place.layers:
                other, has_dora = changed.setdefault(own, (lora, is_dora))
                if other is not lora and (is_dora or has_dora):
                    what = f"{other.name} and {lora.name} both change layer {own!r}, and one of them is a DoRA"
                    raise UserError(what, "merge both with diffusers' fuse_lora, and export the merged network")


def _to_tensors(parts: Parts) -> "Tensors":
    """Return the parts as torch tensors."""
    import torch

    return {part: torch.from_numpy(array) for part, array in parts.items()}


def _check_fit(lora: Lora, layer: str, targets: "Targets", parts: "Tensors") -> None:
    """Raise UserError if an update does not have the shape of its layers."""
    try:
        _updates(targets, {part: tensor.to("meta") for part, tensor in parts.items() if part != "alpha"}, AlphaScale())
    except (ValueError, IndexError, RuntimeError) as error:
        shapes = ", ".join(str(list(target.weight.shape)) for target in targets.layers)
        update = ", ".join(f"{part} {list(tensor.shape)}" for part, tensor in parts.items() if part != "alpha")
        reason = error if isinstance(error, ValueError) else "these do not fit each other"  # replaces torch's message
        what = f"{lora.name}: {layer!r} has a weight of {shapes}, but the file has {update}: {reason}"
        raise UserError(what, OTHER_NETWORK) from error


@dataclass(frozen=True)
class Targets:
    """The layers that one update of a file changes, with their outputs concatenated in this order. If `is_swapped`, the
    file has the second half of the outputs first."""

    layers: tuple[Any, ...]
    is_swapped: bool

    def join(self, values: "Sequence[torch.Tensor]", device: "torch.device") -> "torch.Tensor":
        """Return the layers' weights or biases as one tensor in float32, in the file's order."""
        import torch

        return self._order(torch.cat([value.detach().to(device).float() for value in values]))

    def split(self, value: "torch.Tensor") -> "tuple[torch.Tensor, ...]":
        """Return the part of each layer of a tensor in the file's order."""
        return self._order(value).split([len(layer.weight) for layer in self.layers])

    def _order(self, value: "torch.Tensor") -> "torch.Tensor":
        return value.roll(len(value) // 2, 0) if self.is_swapped else value  # its own inverse


@dataclass(frozen=True)
class LoneParameter:
    """A parameter that is not the weight or bias of a layer, such as a table of modulations."""

    owner: "torch.nn.Module"
    name: str

    @property
    def weight(self) -> Any:
        return getattr(self.owner, self.name)


def _updates(
    targets: Targets, parts: "Tensors", scale: AlphaScale, strength: float = 1.0
) -> "list[tuple[torch.nn.Module, str, torch.Tensor]]":
    """Return (module, name of the parameter, new value) for the weights and the biases that an update changes."""
    from fewstep.export.lora.delta import apply_update

    device = next(tensor.device for part, tensor in parts.items() if part != "alpha")
    changes: list[tuple[torch.nn.Module, str, torch.Tensor]] = []
    if set(parts) - {"diff_b", "up_bias", "alpha"}:
        whole = targets.join([layer.weight for layer in targets.layers], device)
        for layer, value in zip(
            targets.layers, targets.split(apply_update(whole, parts, scale, strength)), strict=True
        ):
            is_lone = isinstance(layer, LoneParameter)
            changes.append((layer.owner, layer.name, value) if is_lone else (layer, "weight", value))
    if {"diff_b", "up_bias"} & parts.keys():
        biases = [bias for layer in targets.layers if (bias := getattr(layer, "bias", None)) is not None]
        change = _bias_change(parts, scale)
        if len(biases) < len(targets.layers) or change.shape != (sum(len(bias) for bias in biases),):
            raise ValueError("the bias update does not fit the layer's bias")
        joined = targets.split(targets.join(biases, device) + strength * change)
        changes += [(layer, "bias", value) for layer, value in zip(targets.layers, joined, strict=True)]
    return changes


def _bias_change(parts: "Tensors", scale: AlphaScale) -> "torch.Tensor":
    """Return the update of a bias: its difference, and peft's `lora_bias`, which has the scale of the factors."""
    changes = [parts["diff_b"]] if "diff_b" in parts else []
    if (bias := parts.get("up_bias")) is not None:
        changes.append(scale.update_factor(len(parts["down"]), parts.get("alpha")) * bias)
    return sum(changes[1:], changes[0])


def _parameter(value: "torch.Tensor") -> "torch.nn.Parameter":
    import torch

    return torch.nn.Parameter(value, requires_grad=False)


def lone_parameters(module: "torch.nn.Module") -> dict[str, LoneParameter]:
    """Return the parameters of a module that are not the weight or bias of a layer, by name."""
    return {
        f"{path}.{name}" if path else name: LoneParameter(owner, name)
        for path, owner in module.named_modules()
        for name, parameter in owner.named_parameters(recurse=False)
        if name not in ("weight", "bias") and parameter.ndim
    }


def layers_with_weights(module: "torch.nn.Module") -> "dict[str, Any]":
    """Return the layers of a module that have their own weight [out, in, ...], by name."""
    import torch

    transposed = (torch.nn.ConvTranspose1d, torch.nn.ConvTranspose2d, torch.nn.ConvTranspose3d)  # [in, out, ...]
    return {
        name: layer
        for name, layer in module.named_modules()
        if isinstance(getattr(layer, "weight", None), torch.nn.Parameter) and not isinstance(layer, transposed)
    }
