"""A class-conditional UNet of 5.2 M parameters for 32x32 colour images."""

from importlib.resources import files
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from fewstep.models.blocks import ResidualBlock, SelfAttention, time_features, upsample, zero
from fewstep.models.cifar10.data import CLASSES
from fewstep.models.weights import load_weights

NULL_CLASS = len(CLASSES)  # the label that means "no condition"
IMAGE_SHAPE = (3, 32, 32)
WEIGHTS = "cifar10.safetensors"


class UNet(nn.Module):
    """Predicts the velocity eps - x0 of a straight path (Liu et al. 2023, Lipman et al. 2023).

    `forward(x [B, 3, 32, 32], time [B], label [B])`: x = (1 - t) x0 + t eps, time = 1000 t in [0, 1000], label in
    0..9, or `NULL_CLASS` for the unconditional branch.
    """

    def __init__(self, channels: tuple[int, int, int] = (48, 96, 192), embedding: int = 256) -> None:
        super().__init__()
        c32, c16, c8 = channels
        self.features = 2 * c32
        self.time_mlp = nn.Sequential(nn.Linear(self.features, embedding), nn.SiLU(), nn.Linear(embedding, embedding))
        self.label_embedding = nn.Embedding(len(CLASSES) + 1, embedding)
        self.conv_in = nn.Conv2d(IMAGE_SHAPE[0], c32, 3, padding=1)
        self.down32 = ResidualBlock(c32, c32, embedding)
        self.to16 = nn.Conv2d(c32, c32, 3, stride=2, padding=1)
        self.down16a = ResidualBlock(c32, c16, embedding)
        self.down16b = ResidualBlock(c16, c16, embedding)
        self.to8 = nn.Conv2d(c16, c16, 3, stride=2, padding=1)
        self.down8a = ResidualBlock(c16, c8, embedding)
        self.down8b = ResidualBlock(c8, c8, embedding)
        self.attention_down = SelfAttention(c8)
        self.middle = ResidualBlock(c8, c8, embedding)
        self.up8 = ResidualBlock(2 * c8, c8, embedding)
        self.attention_up = SelfAttention(c8)
        self.from8 = nn.Conv2d(c8, c16, 3, padding=1)
        self.up16a = ResidualBlock(2 * c16, c16, embedding)
        self.up16b = ResidualBlock(2 * c16, c16, embedding)
        self.from16 = nn.Conv2d(c16, c32, 3, padding=1)
        self.up32 = ResidualBlock(2 * c32, c32, embedding)
        self.norm_out = nn.GroupNorm(8, c32)
        self.conv_out = nn.Conv2d(c32, IMAGE_SHAPE[0], 3, padding=1)
        zero(self.conv_out)

    def forward(self, x: Tensor, time: Tensor, label: Tensor) -> Tensor:
        embedding = F.silu(self.time_mlp(time_features(time, self.features)) + self.label_embedding(label))
        h32 = self.down32(self.conv_in(x), embedding)
        h16a = self.down16a(self.to16(h32), embedding)
        h16b = self.down16b(h16a, embedding)
        h8 = self.down8b(self.down8a(self.to8(h16b), embedding), embedding)
        h8 = self.attention_down(h8)
        h = self.middle(h8, embedding)
        h = self.attention_up(self.up8(torch.cat([h, h8], dim=1), embedding))
        h = self.from8(upsample(h))
        h = self.up16a(torch.cat([h, h16b], dim=1), embedding)
        h = self.up16b(torch.cat([h, h16a], dim=1), embedding)
        h = self.from16(upsample(h))
        h = self.up32(torch.cat([h, h32], dim=1), embedding)
        return self.conv_out(F.silu(self.norm_out(h)))


def load(path: Path | None = None) -> UNet:
    """The trained network, float32, in evaluation mode; `path`: of other weights, as a training run wrote them."""
    return load_weights(UNet(), files(__package__) / WEIGHTS if path is None else path)
