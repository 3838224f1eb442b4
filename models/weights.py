"""Trained weights on disk, as safetensors files with parameters in float16, next to the module of the network."""

from collections.abc import Collection, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar

from torch import Tensor, nn

if TYPE_CHECKING:
    from importlib.resources.abc import Traversable

Network = TypeVar("Network", bound=nn.Module)


def write_weights(tensors: Mapping[str, Tensor], path: Path, buffers: Collection[str] = ()) -> None:
    """Write tensors to a safetensors file as float16, except those named in `buffers`, which keep their type."""
    from safetensors.torch import save_file

    stored = {name: tensor if name in buffers else tensor.half() for name, tensor in tensors.items()}
    save_file({name: tensor.contiguous().cpu() for name, tensor in stored.items()}, path, {"format": "pt"})


def load_weights(network: Network, path: "Path | Traversable") -> Network:
    """Load the weights of `path` into a network, and return it as float32 in evaluation mode."""
    from safetensors.torch import load

    tensors = load(path.read_bytes())
    network.load_state_dict({name: tensor.float() for name, tensor in tensors.items()})
    return network.eval().requires_grad_(False)
