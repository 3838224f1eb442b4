"""A loaded network with LoRA files in its slots: the same graphs, which are fed further inputs at each call."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from numbers import Real
from os import PathLike, stat_result
from pathlib import Path
from typing import Any

from msgspec import UnsetType

from fewstep.plans.errors import UserError
from fewstep.runtime.backends import Arrays, LoadedGraph
from fewstep.runtime.bundle.lora_slots import ENDS, LoraSlots, port
from fewstep.runtime.bundle.reading import Bundle
from fewstep.runtime.lora.file import CONFIG, Lora, file_of
from fewstep.runtime.lora.fill import MERGE, filled

Adapters = Mapping[str | PathLike[str], float]  # LoRA files or folders, and the strength of each
Stamps = tuple[tuple[Any, ...], ...]


@dataclass(frozen=True)
class AdaptedGraph:
    """A loaded graph, and the slots that are filled at each call."""

    loaded: LoadedGraph
    slots: Arrays

    def __call__(self, feeds: Arrays) -> Any:
        return self.loaded({**feeds, **self.slots})


def stamps(adapters: Adapters) -> Stamps:
    """What changes when a file, its configuration or a strength does."""
    if not isinstance(adapters, Mapping):
        raise UserError(f"adapters {adapters!r} is no mapping", 'give adapters={"FILE.safetensors": 0.8}')
    for path, strength in adapters.items():
        if not isinstance(path, str | PathLike):
            raise UserError(f"adapters have a file {path!r}", 'give paths: {"FILE.safetensors": 0.8}')
        if isinstance(strength, bool) or not isinstance(strength, Real):
            raise UserError(f"{path} has the strength {strength!r}", "give a number, as 0.8")
    files = [(file_of(Path(path)), strength) for path, strength in adapters.items()]
    read = [(each, strength) for file, strength in files for each in (file, file.with_name(CONFIG)) if each.is_file()]
    return tuple((str(each), *_identity(each.stat()), strength) for each, strength in read)


def _identity(stat: stat_result) -> tuple[int, ...]:
    """What changes when a file does, also to one of equal size and time."""
    return stat.st_dev, stat.st_ino, stat.st_ctime_ns, stat.st_mtime_ns, stat.st_size


def slot_inputs(bundle: Bundle, loras: Sequence[Lora]) -> dict[str, Arrays]:
    """What each of a bundle's graphs is fed for these files: by "conditioner", "prologue" and "body"."""
    slots = slots_in(bundle)
    inputs = filled(slots, loras)
    names = {graph: [port(layer, end) for layer in own for end in ENDS] for graph, own in slots.graphs.items()}
    return {graph: {name: inputs[name] for name in own if name in inputs} for graph, own in names.items()}


def slots_in(bundle: Bundle) -> LoraSlots:
    """The slots of a bundle. UserError where it has none."""
    slots = bundle.manifest.lora_slots
    if isinstance(slots, UnsetType):
        raise UserError(f"{bundle.path} has no slots for LoRA files", f"export it with --lora-slots, or {MERGE}")
    return slots
