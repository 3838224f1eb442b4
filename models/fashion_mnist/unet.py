"""A class-conditional UNet of 3.5 M parameters for 28x28 grey images.

Residual blocks and adaptive group normalisation as in Dhariwal & Nichol 2021 (arXiv 2105.05233, "ADM"), with one
change for deployment: the normalisation that receives scale and shift has no affine of its own, so conditioning costs
nothing in the body beyond the Mul and Add every normalisation ends with, and all of it leaves with the prologue.
"""

import math
from importlib.resources import files

import torch
from torch import Tensor, nn
from torch.nn import functional as F

CLASSES = ("T-shirt", "trouser", "pullover", "dress", "coat", "sandal", "shirt", "sneaker", "bag", "ankle boot")
NULL_CLASS = len(CLASSES)  # the label that means "no condition"; 10 % of the training labels were replaced by it
IMAGE_SHAPE = (1, 28, 28)
WEIGHTS = "fashion_mnist.safetensors"


class ResidualBlock(nn.Module):
    """GroupNorm, SiLU, conv; adaptive GroupNorm, SiLU, conv; plus the input (through a 1x1 conv if channels differ)."""

    def __init__(self, channels_in: int, channels_out: int, embedding: int) -> None:
        super().__init__()
        self.norm1 = nn.GroupNorm(8, channels_in)
        self.conv1 = nn.Conv2d(channels_in, channels_out, 3, padding=1)
        self.modulation = nn.Linear(embedding, 2 * channels_out)
        self.norm2 = nn.GroupNorm(8, channels_out, affine=False)
        self.conv2 = nn.Conv2d(channels_out, channels_out, 3, padding=1)
        same = channels_in == channels_out
        self.shortcut = nn.Identity() if same else nn.Conv2d(channels_in, channels_out, 1)
        nn.init.zeros_(self.conv2.weight)  # every block starts as the identity
        nn.init.zeros_(self.conv2.bias)  # type: ignore[arg-type]

    def forward(self, x: Tensor, embedding: Tensor) -> Tensor:
        h = self.conv1(F.silu(self.norm1(x)))
        scale, shift = self.modulation(embedding)[:, :, None, None].chunk(2, dim=1)
        h = self.norm2(h) * (1 + scale) + shift
        return self.shortcut(x) + self.conv2(F.silu(h))


class SelfAttention(nn.Module):
    """Multi-head attention over the pixels, with a residual."""

    def __init__(self, channels: int, heads: int = 4) -> None:
        super().__init__()
        self.heads = heads
        self.norm = nn.GroupNorm(8, channels)
        self.qkv = nn.Linear(channels, 3 * channels)
        self.out = nn.Linear(channels, channels)
        nn.init.zeros_(self.out.weight)
        nn.init.zeros_(self.out.bias)

    def forward(self, x: Tensor) -> Tensor:
        _, channels, height, width = x.shape
        tokens = self.norm(x).flatten(2).transpose(1, 2)  # [B, H*W, C]
        q, k, v = self.qkv(tokens).unflatten(2, (3, self.heads, channels // self.heads)).permute(2, 0, 3, 1, 4)
        attended = F.scaled_dot_product_attention(q, k, v).transpose(1, 2).flatten(2)
        return x + self.out(attended).transpose(1, 2).unflatten(2, (height, width))


def time_features(time: Tensor, dim: int) -> Tensor:
    """Sinusoidal features [B, dim] of times [B] in [0, 1000) (Vaswani et al. 2017, as DDPM uses them)."""
    frequencies = torch.exp(torch.arange(dim // 2, device=time.device) * (-math.log(10_000) / (dim // 2)))
    angles = time.float()[:, None] * frequencies
    return torch.cat([angles.cos(), angles.sin()], dim=1)


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
        nn.init.zeros_(self.conv_out.weight)
        nn.init.zeros_(self.conv_out.bias)  # type: ignore[arg-type]

    def forward(self, x: Tensor, time: Tensor, label: Tensor) -> Tensor:
        embedding = F.silu(self.time_mlp(time_features(time, self.features)) + self.label_embedding(label))
        h28 = self.down28(self.conv_in(x), embedding)
        h14a = self.down14a(self.to14(h28), embedding)
        h14b = self.down14b(h14a, embedding)
        h7 = self.attention(self.down7(self.to7(h14b), embedding))
        h = self.middle(h7, embedding)
        h = self.up7(torch.cat([h, h7], dim=1), embedding)
        h = self.from7(F.interpolate(h, scale_factor=2.0, mode="nearest"))
        h = self.up14a(torch.cat([h, h14b], dim=1), embedding)
        h = self.up14b(torch.cat([h, h14a], dim=1), embedding)
        h = self.from14(F.interpolate(h, scale_factor=2.0, mode="nearest"))
        h = self.up28(torch.cat([h, h28], dim=1), embedding)
        return self.conv_out(F.silu(self.norm_out(h)))


def load() -> UNet:
    """The trained network, float32, in evaluation mode."""
    from safetensors.torch import load as load_tensors

    network = UNet()
    tensors = load_tensors((files(__package__) / WEIGHTS).read_bytes())
    network.load_state_dict({name: tensor.float() for name, tensor in tensors.items()})
    return network.eval().requires_grad_(False)
