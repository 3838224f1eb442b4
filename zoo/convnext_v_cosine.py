"""A U-shaped network of ConvNeXt blocks (Liu et al. 2022, arXiv 2201.03545) without attention, on Fashion-MNIST. It
predicts v on the cosine schedule."""

import pictures
from denoising import Trained
from torch import Tensor, nn
from torch.nn import functional as F

from fewstep.export import ScheduleSpec, Spec
from fewstep.models.blocks import time_features, zero
from fewstep.models.training import Recipe

SPEC = Spec("convnext_v_cosine", (1, 28, 28), (pictures.LABEL,), "v", ScheduleSpec("cosine", timesteps=1000))
RECIPE = Recipe(steps=1_500, batch=16, rate=1e-3, seed=0)
DATA = pictures.FASHION


class Block(nn.Module):
    """A depthwise convolution, a normalisation over all channels with scale and shift from time and class, and two
    pointwise convolutions with GELU between them; plus the input."""

    def __init__(self, channels: int, embedding: int) -> None:
        super().__init__()
        self.depthwise = nn.Conv2d(channels, channels, 5, padding=2, groups=channels)
        self.norm = nn.GroupNorm(1, channels, affine=False)
        self.modulation = nn.Linear(embedding, 2 * channels)
        self.wide, self.narrow = nn.Conv2d(channels, 4 * channels, 1), nn.Conv2d(4 * channels, channels, 1)
        zero(self.narrow)

    def forward(self, x: Tensor, embedding: Tensor) -> Tensor:
        scale, shift = self.modulation(embedding)[:, :, None, None].chunk(2, dim=1)
        h = self.norm(self.depthwise(x)) * (1 + scale) + shift
        return x + self.narrow(F.gelu(self.wide(h)))


class Network(nn.Module):
    """Predicts v from x [B, 1, 28, 28] at timestep time [B] in [0, 1000), for labels [B] in 0..9 or `NULL`. Skip
    connections are added."""

    def __init__(self, fine: int = 64, coarse: int = 128, embedding: int = 128) -> None:
        super().__init__()
        self.features = embedding
        self.time_mlp = nn.Sequential(nn.Linear(embedding, embedding), nn.SiLU(), nn.Linear(embedding, embedding))
        self.label_embedding = nn.Embedding(pictures.CLASSES + 1, embedding)
        self.stem = nn.Conv2d(1, fine, 4, stride=2, padding=1)  # 14 x 14
        self.down = nn.ModuleList([Block(fine, embedding) for _ in range(2)])
        self.to_coarse = nn.Conv2d(fine, coarse, 2, stride=2)  # 7 x 7
        self.middle = nn.ModuleList([Block(coarse, embedding) for _ in range(4)])
        self.to_fine = nn.ConvTranspose2d(coarse, fine, 2, stride=2)
        self.up = nn.ModuleList([Block(fine, embedding) for _ in range(2)])
        self.norm_out = nn.GroupNorm(1, fine)
        self.pixels = nn.ConvTranspose2d(fine, 1, 4, stride=2, padding=1)
        nn.init.zeros_(self.pixels.weight)

    def forward(self, x: Tensor, time: Tensor, label: Tensor) -> Tensor:
        embedding = F.silu(self.time_mlp(time_features(time, self.features)) + self.label_embedding(label))
        h = fine = self.stem(x)
        for block in self.down:
            h = fine = block(h, embedding)
        h = self.to_coarse(h)
        for block in self.middle:
            h = block(h, embedding)
        h = self.to_fine(h) + fine
        for block in self.up:
            h = block(h, embedding)
        return self.pixels(F.gelu(self.norm_out(h)))


make = Trained(__file__, Network, SPEC)
