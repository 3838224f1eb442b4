"""Apply LoRA files to the slots of a loaded network. The graphs do not change: the updates are additional inputs of
each call."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from numbers import Real
from os import PathLike
from pathlib import Path
from typing import Any

from fewstep.plans.errors import UserError
from fewstep.runtime.backends import CONDITIONER, PROLOGUE, Arrays, LoadedGraph
from fewstep.runtime.bundle.reading import Bundle
from fewstep.runtime.kinds.lora_slots import ENDS, LoraSlots, slot_port
from fewstep.runtime.lora.file import Lora, lora_of
from fewstep.runtime.lora.slot_values import MERGE, slot_values
from fewstep.runtime.sampling.network import Network

Adapters = Mapping[str | PathLike[str], float]  # LoRA file or folder -> its strength


@dataclass(frozen=True)
class AdaptedGraph:
    """A loaded graph with inputs for LoRA weights, and the weights that are passed to these inputs at each call."""

    loaded: LoadedGraph
    slots: Arrays

    def __call__(self, feeds: Arrays) -> Any:
        return self.loaded({**feeds, **self.slots})


def apply_adapters(network: Network, adapters: Adapters) -> Network:
    """Return a network with LoRA files in its slots, at their strengths. They replace all earlier adapters.

    Raises UserError if a file does not fit, and for any engine other than onnxruntime on the CPU.
    """
    loras = _read_files(adapters)
    if loras and network.bundle.manifest.networks:
        raise UserError(f"{network.bundle.path} has several networks, and only one may have LoRA slots", MERGE)
    if loras and not getattr(_unwrap(network.graph), "takes_optional", False):
        raise UserError("this engine takes no LoRA files at run time", f"use onnxruntime on the CPU, or {MERGE}")
    slots = slot_inputs(network.bundle, loras) if loras else {}

    def wrap_graph(graph: LoadedGraph | None, name: str) -> Any:
        if graph is None:
            return None
        return AdaptedGraph(_unwrap(graph), slots[name]) if slots.get(name) else _unwrap(graph)

    return replace(
        network,
        graph=wrap_graph(network.graph, "body"),
        earlier=tuple(wrap_graph(each, "body") for each in network.earlier),
        prologue=wrap_graph(network.prologue, PROLOGUE),
        conditioner=wrap_graph(network.conditioner, CONDITIONER),
    )


def _unwrap(graph: LoadedGraph) -> LoadedGraph:
    return graph.loaded if isinstance(graph, AdaptedGraph) else graph


def _read_files(adapters: Adapters) -> list[Lora]:
    """Read the named files. Raises UserError if a path or a strength has the wrong type."""
    if not isinstance(adapters, Mapping):
        raise UserError(f"adapters {adapters!r} is not a mapping", 'give adapters={"FILE.safetensors": 0.8}')
    for path, strength in adapters.items():
        if not isinstance(path, str | PathLike):
            raise UserError(f"adapters has {path!r}, not a path", 'give paths: {"FILE.safetensors": 0.8}')
        if isinstance(strength, bool) or not isinstance(strength, Real):
            raise UserError(f"{path} has the strength {strength!r}", "give a number, such as 0.8")
    return [lora_of(Path(path), strength) for path, strength in adapters.items()]


def slot_inputs(bundle: Bundle, loras: Sequence[Lora]) -> dict[str, Arrays]:
    """Return the LoRA weights of these files as inputs of the bundle's graphs: a mapping from "conditioner", "prologue"
    and "body" to arrays by input name."""
    slots = require_slots(bundle)
    inputs = slot_values(slots, loras)
    ports = {
        graph: [slot_port(layer, end) for layer in layers for end in ENDS] for graph, layers in slots.graphs.items()
    }
    return {graph: {name: inputs[name] for name in names if name in inputs} for graph, names in ports.items()}


def require_slots(bundle: Bundle) -> LoraSlots:
    """Return the bundle's slots for LoRA files. Raises UserError if it was exported without any."""
    slots = bundle.manifest.lora_slots
    if slots is None:
        raise UserError(f"{bundle.path} has no slots for LoRA files", f"export it with --lora-slots, or {MERGE}")
    return slots
