"""Low-rank changes of a frozen network's weights (LoRA: Hu et al. 2021, arXiv 2106.09685), in the names of peft."""

from collections.abc import Collection, Iterator
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.func import functional_call


class Factor(nn.Module):
    """One of the two factors of a weight's change."""

    def __init__(self, values: Tensor) -> None:
        super().__init__()
        self.weight = nn.Parameter(values)


class Adapter(nn.Module):
    """A frozen network with a change of this rank in its linear layers and convolutions. The change is 0 at first. Its
    parameters alone are trained and stored: under the layer's name `lora_A.weight` [rank, in, ...] and `lora_B.weight`
    [out, rank, 1, ...].

    but: beginnings of names of layers that stay as they are.
    """

    def __init__(self, network: nn.Module, rank: int, but: Collection[str] = ()) -> None:
        super().__init__()
        frozen = network.eval().requires_grad_(False).to(memory_format=torch.channels_last)  # type: ignore[call-overload]
        self._network = [frozen]  # a list: its weights are not the adapter's
        self._factors: dict[str, tuple[Factor, Factor]] = {}
        for name, layer in network.named_modules():
            if isinstance(layer, nn.Linear | nn.Conv2d) and not name.startswith(tuple(but)):
                self._factors[name] = first, second = _factors(layer.weight, rank)
                place = self._place(name)
                place.lora_A, place.lora_B = first, second

    def _place(self, name: str) -> nn.Module:
        """The module of this name, made where it is not there."""
        place: nn.Module = self
        for part in name.split("."):
            if part not in place._modules:
                place.add_module(part, nn.Module())
            place = place.get_submodule(part)
        return place

    def weights(self) -> Iterator[tuple[str, Tensor]]:
        """The names and values of the network's changed weights."""
        for name, (first, second) in self._factors.items():
            weight = self._network[0].get_submodule(name).weight
            change = second.weight.flatten(1) @ first.weight.flatten(1)
            yield f"{name}.weight", weight + change.view_as(weight)

    def forward(self, *inputs: Tensor) -> Tensor:
        made: Tensor = functional_call(self._network[0], dict(self.weights()), inputs)
        return made

    def read(self, path: Path) -> "Adapter":
        """The adapter with the factors of a file, in evaluation mode."""
        from safetensors.torch import load_file

        self.load_state_dict({name: tensor.float() for name, tensor in load_file(path).items()})
        return self.eval().requires_grad_(False)

    def merged(self) -> nn.Module:
        """The network with the changes in its weights."""
        network = self._network[0]
        network.load_state_dict(dict(self.weights()), strict=False)
        return network


def _factors(weight: Tensor, rank: int) -> tuple[Factor, Factor]:
    ones = [1] * (weight.dim() - 2)
    first = torch.empty(rank, *weight.shape[1:])
    nn.init.kaiming_uniform_(first, a=5**0.5)
    return Factor(first), Factor(torch.zeros(weight.shape[0], rank, *ones))
