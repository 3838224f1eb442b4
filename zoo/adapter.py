"""Low-rank changes of a frozen network's weights (LoRA: Hu et al. 2021, arXiv 2106.09685), with peft's tensor names."""

from collections.abc import Collection, Iterator
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.func import functional_call


class Factor(nn.Module):
    """One of the two factors of the change of a weight."""

    def __init__(self, values: Tensor) -> None:
        super().__init__()
        self.weight = nn.Parameter(values)


class Adapter(nn.Module):
    """A frozen network with a low-rank change in its linear layers and convolutions. The change is initially 0. Only
    its parameters are trained and stored, as `lora_A.weight` [rank, in, ...] and `lora_B.weight` [out, rank, 1, ...]
    under the name of the layer.

    but: prefixes of the names of layers that are not changed.
    """

    def __init__(self, network: nn.Module, rank: int, but: Collection[str] = ()) -> None:
        super().__init__()
        frozen = network.eval().requires_grad_(False).to(memory_format=torch.channels_last)  # type: ignore[call-overload]
        self._network = [frozen]  # in a list, so that its weights are not the adapter's
        self._factors: dict[str, tuple[Factor, Factor]] = {}
        for name, layer in network.named_modules():
            if isinstance(layer, nn.Linear | nn.Conv2d) and not name.startswith(tuple(but)):
                self._factors[name] = first, second = _factors(layer.weight, rank)
                place = self._place(name)
                place.lora_A, place.lora_B = first, second

    def _place(self, name: str) -> nn.Module:
        """Return the module with this name, which is created if it does not exist."""
        place: nn.Module = self
        for part in name.split("."):
            if part not in place._modules:
                place.add_module(part, nn.Module())
            place = place.get_submodule(part)
        return place

    def weights(self) -> Iterator[tuple[str, Tensor]]:
        """Yield the names and values of the network's changed weights."""
        for name, (first, second) in self._factors.items():
            weight = self._network[0].get_submodule(name).weight
            change = second.weight.flatten(1) @ first.weight.flatten(1)
            yield f"{name}.weight", weight + change.view_as(weight)

    def forward(self, *inputs: Tensor) -> Tensor:
        made: Tensor = functional_call(self._network[0], dict(self.weights()), inputs)
        return made

    def read(self, path: Path) -> "Adapter":
        """Load the factors from a file, and return the adapter in evaluation mode."""
        from safetensors.torch import load_file

        self.load_state_dict({name: tensor.float() for name, tensor in load_file(path).items()})
        return self.eval().requires_grad_(False)

    def merge(self) -> nn.Module:
        """Return the network with the changes added to its weights."""
        network = self._network[0]
        network.load_state_dict(dict(self.weights()), strict=False)
        return network


def _factors(weight: Tensor, rank: int) -> tuple[Factor, Factor]:
    ones = [1] * (weight.dim() - 2)
    first = torch.empty(rank, *weight.shape[1:])
    nn.init.kaiming_uniform_(first, a=5**0.5)
    return Factor(first), Factor(torch.zeros(weight.shape[0], rank, *ones))
