"""A class-conditional UNet of 3.84 M parameters for 28x28 grey images."""

from importlib.resources import files

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from fewstep.models.blocks import ResidualBlock, SelfAttention, time_features, upsample, zero
from fewstep.models.weights import load_weights

CLASSES = ("T-shirt", "trouser", "pullover", "dress", "coat", "sandal", "shirt", "sneaker", "bag", "ankle boot")
NULL_CLASS = len(CLASSES)  # the label that means "no condition"; 10 % of the training labels were replaced by it
IMAGE_SHAPE = (1, 28, 28)
WEIGHTS = "fashion_mnist.safetensors"


class UNet(nn.Module):
    """Predicts v from a noisy image (Salimans & Ho 2022): `forward(x [B, 1, 28, 28], time [B], label [B])`.

    Time is the DDPM timestep in [0, 1000), label in 0..9, or `NULL_CLASS` for the unconditional branch.
    """

    def __init__(self, channels: tuple[int, int, int] = (64, 128, 128), embedding: int = 256) -> None:
        super().__init__()
        c28, c14, c7 = channels
        self.features = c28 * 2
        self.time_mlp = nn.Sequential(nn.Linear(self.features, embedding), nn.SiLU(), nn.Linear(embedding, embedding))
        self.label_embedding = nn.Embedding(len(CLASSES) + 1, embedding)
        self.conv_in = nn.Conv2d(IMAGE_SHAPE[0], c28, 3, padding=1)
        self.down28 = ResidualBlock(c28, c28, embedding)
        self.to14 = nn.Conv2d(c28, c28, 3, stride=2, padding=1)
        self.down14a = ResidualBlock(c28, c14, embedding)
        self.down14b = ResidualBlock(c14, c14, embedding)
        self.to7 = nn.Conv2d(c14, c14, 3, stride=2, padding=1)
        self.down7 = ResidualBlock(c14, c7, embedding)
        self.attention = SelfAttention(c7)
        self.middle = ResidualBlock(c7, c7, embedding)
        self.up7 = ResidualBlock(2 * c7, c7, embedding)
        self.from7 = nn.Conv2d(c7, c14, 3, padding=1)
        self.up14a = ResidualBlock(2 * c14, c14, embedding)
        self.up14b = ResidualBlock(2 * c14, c14, embedding)
        self.from14 = nn.Conv2d(c14, c28, 3, padding=1)
        self.up28 = ResidualBlock(2 * c28, c28, embedding)
        self.norm_out = nn.GroupNorm(8, c28)
        self.conv_out = nn.Conv2d(c28, IMAGE_SHAPE[0], 3, padding=1)
        zero(self.conv_out)

    def forward(self, x: Tensor, time: Tensor, label: Tensor) -> Tensor:
        embedding = F.silu(self.time_mlp(time_features(time, self.features)) + self.label_embedding(label))
        h28 = self.down28(self.conv_in(x), embedding)
        h14a = self.down14a(self.to14(h28), embedding)
        h14b = self.down14b(h14a, embedding)
        h7 = self.attention(self.down7(self.to7(h14b), embedding))
        h = self.middle(h7, embedding)
        h = self.up7(torch.cat([h, h7], dim=1), embedding)
        h = self.from7(upsample(h))
        h = self.up14a(torch.cat([h, h14b], dim=1), embedding)
        h = self.up14b(torch.cat([h, h14a], dim=1), embedding)
        h = self.from14(upsample(h))
        h = self.up28(torch.cat([h, h28], dim=1), embedding)
        return self.conv_out(F.silu(self.norm_out(h)))


def load() -> UNet:
    """The trained network, float32, in evaluation mode."""
    return load_weights(UNet(), files(__package__) / WEIGHTS)
