"""The networks of a pipeline besides its denoisers, with their weights: in a folder or in memory."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import nn

from fewstep.export.sources.model_files import CONFIG, float_bytes
from fewstep.export.tracing.weights.stored_halves import to_float32
from fewstep.pipelines.companions.autoencoder import ENCODING
from fewstep.pipelines.files.folder import Folder
from fewstep.pipelines.files.loading import find_component_weights, load_component


@dataclass(frozen=True)
class StoredNetwork:
    """How to load a network with its weights: a function, the bytes of all its weights and of its encoder in float32,
    and the files that are read."""

    load: Callable[[], nn.Module]
    total: int
    encoding: int
    files: tuple[Path, ...] = ()


ReadNetwork = Callable[[str, type], StoredNetwork]  # returns the network of a component and of a class


def read_stored(folder: Folder, component: str, component_class: Any) -> StoredNetwork:
    """Return a network of a folder. The attention of one of transformers is "eager", which exports as written."""
    home = folder.home(component)
    files = find_component_weights(home, component_class).files
    total, encoding = float_bytes(files), float_bytes(files, ENCODING)

    def load() -> nn.Module:
        return to_float32(load_component(home, component_class, dtype=torch.float32, attn_implementation="eager"))

    return StoredNetwork(load, total, encoding, (home / CONFIG, *files))


def read_from_memory(pipeline: Any, component: str, _: type) -> StoredNetwork:
    """Return a network of a pipeline."""
    network: nn.Module = getattr(pipeline, component)
    sizes = {name: 4 * parameter.numel() for name, parameter in network.named_parameters()}
    encoding = sum(size for name, size in sizes.items() if name.startswith(ENCODING))
    return StoredNetwork(lambda: network, sum(sizes.values()), encoding)
