"""Trained weights on disk: float16 safetensors, next to the network they belong to."""

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar

from torch import Tensor, nn

if TYPE_CHECKING:
    from importlib.resources.abc import Traversable

Network = TypeVar("Network", bound=nn.Module)


def write_weights(tensors: Mapping[str, Tensor], path: Path) -> None:
    """Store tensors as float16."""
    from safetensors.torch import save_file

    save_file({name: tensor.half().contiguous().cpu() for name, tensor in tensors.items()}, path, {"format": "pt"})


def load_weights(network: Network, path: "Path | Traversable") -> Network:
    """The network with the weights of `path`, float32, in evaluation mode."""
    from safetensors.torch import load

    tensors = load(path.read_bytes())
    network.load_state_dict({name: tensor.float() for name, tensor in tensors.items()})
    return network.eval().requires_grad_(False)
