"""Super-resolution by a factor of four in the style of ResShift (Yue et al. 2023, arXiv 2307.12348) on Fashion-MNIST.
The network is a NAFNet (Chen et al. 2022, arXiv 2204.04676) with scale and shift from the time, as in Refusion (Luo et
al. 2023, arXiv 2304.08291)."""

from pathlib import Path

import numpy as np
import pictures
import torch
from denoising import Batch, Data, Draw, Trained
from torch import Tensor, nn
from torch.nn import functional as F

from fewstep.export import Condition, ScheduleSpec, Spec
from fewstep.models.blocks import time_features, zero
from fewstep.models.training import Recipe

SIDE, FACTOR = 28, 4
SHAPE = (1, SIDE, SIDE)
NOISE = 0.1  # standard deviation of the noise added to a small picture, in model range
TIMESTEPS = 15
CHANNELS, FEATURES = (48, 96, 192), 64  # widths at full, half and quarter resolution; width of the time embedding
Y = Condition("y", input="y", shape=SHAPE, dtype="float32", typical=(-1.0, 1.0))
SCHEDULE = ScheduleSpec("residual-shift", timesteps=TIMESTEPS)
SPEC = Spec("nafnet_residual", SHAPE, (Y,), "residual", SCHEDULE, towards="y")
RECIPE = Recipe(steps=2_000, batch=16, rate=1e-3, seed=0)
SMALL = Path(__file__).with_name("nafnet_residual_small.png")  # downsampled test pictures: tiles of 7 x 7, 64 in a row


def enlarged(small: Tensor) -> Tensor:
    """Return y [B, 1, 28, 28] from noisy small images [B, 1, 7, 7]."""
    return F.interpolate(small, scale_factor=float(FACTOR), mode="bilinear")


def degraded(x0: Tensor, generator: torch.Generator) -> Tensor:
    """Return y of images [B, 1, 28, 28]."""
    small = F.avg_pool2d(x0, FACTOR)
    return enlarged(small + NOISE * torch.randn(small.shape, generator=generator))


def _open(folder: Path | None, split: str) -> Draw:
    """Return a function that draws gray images [B, 1, 28, 28] in [-1, 1], and their degraded versions."""
    draw = pictures.FASHION.open(folder, split)

    def drawn(count: int, generator: torch.Generator) -> Batch:
        x0 = draw(count, generator).x0
        return Batch(x0, (degraded(x0, generator),))

    return drawn


def rows(count: int, seed: int) -> dict[str, np.ndarray]:
    """Return degraded test images. Even and odd seeds have no image in common."""
    from PIL import Image

    side = SIDE // FACTOR
    with Image.open(SMALL) as sheet:
        pixels = np.asarray(sheet.convert("L"))
    tiles = pixels.reshape(len(pixels) // side, side, -1, side).swapaxes(1, 2).reshape(-1, 1, side, side)[seed % 2 :: 2]
    rng = np.random.default_rng(seed)
    small = tiles[rng.permutation(len(tiles))[np.arange(count) % len(tiles)]] / 127.5 - 1
    noisy = small + NOISE * rng.standard_normal(small.shape)
    return {"y": enlarged(torch.from_numpy(noisy.astype(np.float32))).numpy()}


def show(samples: Tensor, conditions: tuple[Tensor, ...]) -> Tensor:
    """Return images [N, 1, 56, 28] with the degraded image above and the sample below."""
    return torch.cat([conditions[0], samples], dim=2)


def normalised(x: Tensor) -> Tensor:
    """Normalise to mean 0 and variance 1 over the channels of each pixel. This is NAFNet's LayerNorm2d without its
    affine parameters."""
    centred = x - x.mean(1, keepdim=True)
    return centred / (centred.square().mean(1, keepdim=True) + 1e-6).sqrt()


def gate(x: Tensor) -> Tensor:
    """Return the product of both halves of the channels, which replaces an activation function."""
    first, second = x.chunk(2, dim=1)
    return first * second


class Block(nn.Module):
    """Pointwise and depthwise convolution, gate and channel attention; then a gated MLP. Both are added to the input,
    with a factor for each channel that is initially 0."""

    def __init__(self, channels: int, embedding: int) -> None:
        super().__init__()
        self.modulation = nn.Linear(embedding, 4 * channels)
        self.wide, self.narrow = nn.Conv2d(channels, 2 * channels, 1), nn.Conv2d(channels, channels, 1)
        self.depthwise = nn.Conv2d(2 * channels, 2 * channels, 3, padding=1, groups=2 * channels)
        self.attention = nn.Conv2d(channels, channels, 1)
        self.first, self.last = nn.Conv2d(channels, 2 * channels, 1), nn.Conv2d(channels, channels, 1)
        self.beta, self.gamma = (nn.Parameter(torch.zeros(1, channels, 1, 1)) for _ in range(2))

    def forward(self, x: Tensor, embedding: Tensor) -> Tensor:
        scale1, shift1, scale2, shift2 = self.modulation(embedding)[:, :, None, None].chunk(4, dim=1)
        h = gate(self.depthwise(self.wide(normalised(x) * (1 + scale1) + shift1)))
        x = x + self.beta * self.narrow(h * self.attention(h.mean((2, 3), keepdim=True)))
        return x + self.gamma * self.last(gate(self.first(normalised(x) * (1 + scale2) + shift2)))


class Network(nn.Module):
    """Predicts y - x0 from x and y [B, 1, 28, 28] at timestep time [B] in [0, timesteps). Skip connections are added.
    With several outputs (`heads`), y - x0 is the first."""

    def __init__(self, timesteps: int = TIMESTEPS, heads: int = 1) -> None:
        super().__init__()
        fine, middle, coarse = CHANNELS
        self.features, self.timesteps, embedding = FEATURES, timesteps, FEATURES
        self.time_mlp = nn.Sequential(nn.Linear(embedding, embedding), nn.SiLU(), nn.Linear(embedding, embedding))
        self.intro = nn.Conv2d(2, fine, 3, padding=1)
        self.down1, self.down2 = Block(fine, embedding), Block(middle, embedding)
        self.narrow1 = nn.Conv2d(fine, middle, 2, stride=2)  # 14 x 14
        self.narrow2 = nn.Conv2d(middle, coarse, 2, stride=2)  # 7 x 7
        self.middle = Block(coarse, embedding)
        self.widen2 = nn.Sequential(nn.Conv2d(coarse, 4 * middle, 1, bias=False), nn.PixelShuffle(2))
        self.widen1 = nn.Sequential(nn.Conv2d(middle, 4 * fine, 1, bias=False), nn.PixelShuffle(2))
        self.up2, self.up1 = Block(middle, embedding), Block(fine, embedding)
        self.ending = nn.Conv2d(fine, heads, 3, padding=1)
        zero(self.ending)

    def forward(self, x: Tensor, time: Tensor, y: Tensor) -> Tensor:
        embedding = F.silu(self.time_mlp(time_features(1000 / self.timesteps * time, self.features)))
        h1 = self.down1(self.intro(torch.cat([x, y], dim=1)), embedding)
        h2 = self.down2(self.narrow1(h1), embedding)
        h = self.middle(self.narrow2(h2), embedding)
        h = self.up2(self.widen2(h) + h2, embedding)
        return self.ending(self.up1(self.widen1(h) + h1, embedding))


DATA = Data(
    f"{pictures.FASHION.description}; made small by the mean of {FACTOR} x {FACTOR} pixels, with noise of deviation"
    f" {NOISE}, and enlarged",
    _open,
)


make = Trained(__file__, Network, SPEC)
