"""Which of several networks a LoRA file changes: the one that the caller names, or those that its keys name."""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import get_args

from fewstep.plans.errors import UserError
from fewstep.plans.names.network_name import check_network, list_choices
from fewstep.runtime.lora.file import OTHER_NETWORK, PEFT, PREFIXES, AdapterConfig, Lora, Parts
from fewstep.runtime.lora.keys import DENOISER, T5, Component


def loras_of(network: str, networks: Sequence[str], loras: Sequence[Lora]) -> tuple[Lora, ...]:
    """Return the files that change `network`, one of `networks`, each with this network's updates only.

    A file changes the network that the caller named, or those whose name and a dot begin its keys, as `transformer_2.`
    does. Updates of text encoders stay with the first of `networks`. Raises UserError for a file that does not say
    which of several networks it changes.
    """
    own_loras = []
    for number, lora in enumerate(loras):
        own = _updates_of(lora, network, networks)
        if network == networks[0] and not _is_repeated(lora, loras[:number]):
            own |= {place: parts for place, parts in lora.updates.items() if place[0] != DENOISER}
        if own:
            own_loras.append(replace(lora, updates=own, configs=_configs_of(lora, network, networks)))
    return tuple(own_loras)


def _updates_of(lora: Lora, network: str, networks: Sequence[str]) -> dict[tuple[Component, str], Parts]:
    """Return a file's updates of one network, without the network's name in their keys."""
    names = {layer: _match_network(layer, networks) for layer in lora.layers(DENOISER)}
    if lora.network is not None:
        check_network(lora.network, networks, lora.name)
    elif len(networks) > 1:
        _check_names(lora, names, networks)
    if lora.network is not None and len(both := {name for name in names.values() if name is not None}) > 1:
        what = f"{lora.name}@{lora.network}: its keys name the networks {' and '.join(sorted(both))}"
        raise UserError(what, f"leave @{lora.network} out")
    chosen = networks[0] if len(networks) == 1 else lora.network
    return {
        (DENOISER, _without(layer, name)): lora.updates[DENOISER, layer]
        for layer, name in names.items()
        if network == (chosen or name)
    }


def _check_names(lora: Lora, names: Mapping[str, str | None], networks: Sequence[str]) -> None:
    """Raise UserError unless the keys of a file say which of several networks it changes. `names` has the network that
    each layer's key names, or None."""
    unnamed = next((layer for layer, name in names.items() if name is None), None)
    if unnamed is not None:
        reason = f"its {unnamed!r} names none of {', '.join(networks)}"
    elif len(alone := set(names.values())) == 1 and alone <= set(PREFIXES):  # also of a file for `transformer_2`
        reason = f"its keys begin with {alone.pop()!r}, which diffusers writes for any of {', '.join(networks)}"
    else:
        return
    raise UserError(f"{lora.name} does not say which network it changes: {reason}", list_choices(lora.name, networks))


def describe_targets(networks: Sequence[str], loras: Sequence[Lora]) -> list[str]:
    """Return a line for each file with the networks that it changes, and the text encoders by their names in LoRA
    files: "a.safetensors: 8 layers of transformer_2 and 2 layers of text_encoder"."""
    lines = []
    for number, lora in enumerate(loras):
        counts = {name: sum(len(own.layers(DENOISER)) for own in loras_of(name, networks, [lora])) for name in networks}
        if not _is_repeated(lora, loras[:number]):
            counts |= {encoder: len(lora.layers(encoder)) for encoder in get_args(Component) if encoder != DENOISER}
        parts = [f"{count} layer{'s' * (count > 1)} of {name}" for name, count in counts.items() if count]
        if parts:
            lines.append(f"{lora.name}: {' and '.join(parts)}")
    return lines


def _match_network(layer: str, networks: Sequence[str]) -> str | None:
    """Return the network whose name begins a key, or None."""
    name = layer.removeprefix(PEFT).partition(".")[0]
    return name if name in networks else None


def _without(layer: str, name: str | None) -> str:
    return layer if name is None else layer.removeprefix(PEFT).removeprefix(f"{name}.")


def _is_repeated(lora: Lora, earlier: Sequence[Lora]) -> bool:
    """Return True if the file was given before for another network, so that its text encoders are changed already."""
    return any(other.sha256 == lora.sha256 and other.network != lora.network for other in earlier)


def _configs_of(lora: Lora, network: str, networks: Sequence[str]) -> Mapping[str, AdapterConfig]:
    """Return a file's configurations, with that of the network as the denoiser's. If the caller named another network
    than the keys do, it is that of the keys' network."""
    named = {name for layer in lora.layers(DENOISER) if (name := _match_network(layer, networks)) is not None}
    source = network if lora.network is None else next(iter(named), network)
    own = lora.configs.get(source, lora.configs.get(DENOISER))
    if own is None:
        return lora.configs
    root = f"{source}." * (source in named and source not in lora.configs)
    return {**lora.configs, DENOISER: replace(own, root=root)}


def name_t5(lora: Lora, encoder: Component | None) -> Lora:
    """Return a file whose updates of a T5 are those of `encoder`, a pipeline's T5. None leaves the file as it is.

    kohya and ComfyUI count a T5 as the third encoder, also for FLUX and Chroma, where it is the second or the first.
    Raises UserError for a file with both names.
    """
    if encoder is None or not lora.layers(T5):
        return lora
    if encoder != T5 and lora.layers(encoder):
        what = f"{lora.name} changes layers of {encoder} and of {T5}, which are one network here"
        raise UserError(what, OTHER_NETWORK)
    names = {T5: encoder}
    updates = {(names.get(component, component), layer): parts for (component, layer), parts in lora.updates.items()}
    return replace(
        lora,
        updates=updates,
        configs={names.get(network, network): own for network, own in lora.configs.items()},  # type: ignore[call-overload]
    )
