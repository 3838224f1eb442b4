"""Normalisation of raw observations inside the network, so that whoever runs its graph gives what a robot measures."""

from collections.abc import Sequence

import torch
from torch import Tensor, nn

PIXEL = 255.0  # what a uint8 picture is divided by first


class Normalise(nn.Module):
    """(value - centre) * scale + base, for values [..., n], or pictures uint8 [..., channels, H, W].

    Subtracting first keeps the digits of a small range far from zero.
    """

    centre: Tensor
    scale: Tensor
    base: Tensor

    def __init__(
        self, centre: Sequence[float], scale: Sequence[float], base: Sequence[float], *, picture: bool
    ) -> None:
        super().__init__()
        self.picture = picture
        for name, numbers in (("centre", centre), ("scale", scale), ("base", base)):
            values = torch.tensor(numbers, dtype=torch.float64).float()
            self.register_buffer(name, values[:, None, None] if picture else values)

    def set(self, scale: Tensor, offset: Tensor) -> None:
        """Become scale * value + offset, of float64 tensors of one number, or one for each element."""
        self.centre.copy_((-offset / scale).reshape(-1, *[1] * (self.centre.dim() - 1)))
        self.scale.copy_(scale.reshape(-1, *[1] * (self.scale.dim() - 1)))
        self.base.zero_()

    def forward(self, value: Tensor) -> Tensor:
        if self.picture:
            value = value.float() / PIXEL
        return (value - self.centre) * self.scale + self.base
