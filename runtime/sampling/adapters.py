"""Apply LoRA files to the slots of a loaded network. The graphs do not change: the updates are additional inputs of
each call."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from numbers import Real
from os import PathLike
from pathlib import Path
from typing import Any

from fewstep.plans.errors import UserError
from fewstep.plans.plan import DENOISER
from fewstep.runtime.backends import CONDITIONER, PROLOGUE, Arrays, LoadedGraph
from fewstep.runtime.bundle.networks import network_names
from fewstep.runtime.bundle.reading import Bundle
from fewstep.runtime.kinds.lora_slots import ENDS, LoraSlots, slot_port
from fewstep.runtime.lora.file import Lora, lora_of
from fewstep.runtime.lora.networks import loras_of
from fewstep.runtime.lora.option import split_network_of_file
from fewstep.runtime.lora.slot_values import MERGE, slot_values
from fewstep.runtime.sampling.network import Network

Adapters = Mapping[str | PathLike[str], float]  # LoRA file or folder, perhaps with @NETWORK -> its strength


@dataclass(frozen=True)
class AdaptedGraph:
    """A loaded graph with inputs for LoRA weights, and the weights that are passed to these inputs at each call."""

    loaded: LoadedGraph
    slots: Arrays

    def __call__(self, feeds: Arrays) -> Any:
        return self.loaded({**feeds, **self.slots})


def apply_adapters(networks: Mapping[str, Network], adapters: Adapters) -> dict[str, Network]:
    """Return the networks of a denoiser, by their names in a plan's steps, with LoRA files in their slots, at their
    strengths. They replace all earlier adapters.

    Raises UserError if a file does not fit or names none of several networks, and for any engine other than onnxruntime
    on the CPU.
    """
    loras = _read_files(adapters)
    inputs = slot_inputs(networks[DENOISER].bundle, loras) if loras else {}
    if not all(getattr(_unwrap(networks[name].graph), "takes_optional", False) for name in inputs):
        raise UserError("this engine takes no LoRA files at run time", f"use onnxruntime on the CPU, or {MERGE}")
    return {name: _fill_slots(network, inputs.get(name, {})) for name, network in networks.items()}


def _fill_slots(network: Network, slots: Mapping[str, Arrays]) -> Network:
    """Return a network with these LoRA weights, the inputs of its graphs by name, in place of all earlier ones."""

    def wrap_graph(graph: LoadedGraph | None, name: str) -> Any:
        if graph is None:
            return None
        return AdaptedGraph(_unwrap(graph), slots[name]) if slots.get(name) else _unwrap(graph)

    return replace(
        network,
        graph=wrap_graph(network.graph, "body"),
        earlier=tuple(wrap_graph(adapter, "body") for adapter in network.earlier),
        prologue=wrap_graph(network.prologue, PROLOGUE),
        conditioner=wrap_graph(network.conditioner, CONDITIONER),
    )


def _unwrap(graph: LoadedGraph) -> LoadedGraph:
    return graph.loaded if isinstance(graph, AdaptedGraph) else graph


def _read_files(adapters: Adapters) -> list[Lora]:
    """Read the named files. Raises UserError if a path or a strength has the wrong type."""
    if not isinstance(adapters, Mapping):
        raise UserError(f"adapters {adapters!r} is not a mapping", 'give adapters={"FILE.safetensors": 0.8}')
    loras = list[Lora]()
    for path, strength in adapters.items():
        if not isinstance(path, str | PathLike):
            raise UserError(f"adapters has {path!r}, not a path", 'give paths: {"FILE.safetensors": 0.8}')
        if isinstance(strength, bool) or not isinstance(strength, Real):
            raise UserError(f"{path} has the strength {strength!r}", "give a number, such as 0.8")
        name, network = split_network_of_file(str(path))
        loras.append(lora_of(Path(name), strength, network))
    return loras


def slot_inputs(bundle: Bundle, loras: Sequence[Lora]) -> dict[str, dict[str, Arrays]]:
    """Return the LoRA weights of these files as inputs of the graphs of the bundle's networks: by the network's name in
    a plan's steps, a mapping from "conditioner", "prologue" and "body" to arrays by input name."""
    slots, names = require_slots(bundle), network_names(bundle.manifest)
    inputs: dict[str, dict[str, Arrays]] = {}
    for name, network in names.items():
        own = loras_of(name, tuple(names), loras)
        if own and network not in slots:
            what = f"{bundle.path} has no slots for LoRA files in its network {name}, which {own[0].name} changes"
            raise UserError(what, f"export it with --lora-slots LAYERS@{name}, or {MERGE}")
        if own:
            inputs[network] = _inputs_of(slots[network], own, name)
    return inputs


def _inputs_of(slots: LoraSlots, loras: Sequence[Lora], network: str) -> dict[str, Arrays]:
    """Return the inputs of the graphs of one network."""
    inputs = slot_values(slots, loras, network)
    ports = {
        graph: [slot_port(layer, end) for layer in layers for end in ENDS] for graph, layers in slots.graphs.items()
    }
    return {graph: {name: inputs[name] for name in names if name in inputs} for graph, names in ports.items()}


def require_slots(bundle: Bundle) -> dict[str, LoraSlots]:
    """Return the slots for LoRA files of the bundle's networks, by the network's name in a plan's steps. Raises
    UserError if it was exported without any."""
    manifest = bundle.manifest
    by_network = {DENOISER: manifest.lora_slots} | {
        name: network.lora_slots for name, network in manifest.networks.items()
    }
    slots = {name: own_slots for name, own_slots in by_network.items() if own_slots is not None}
    if not slots:
        raise UserError(f"{bundle.path} has no slots for LoRA files", f"export it with --lora-slots, or {MERGE}")
    return slots
