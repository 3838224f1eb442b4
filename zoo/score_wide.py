"""A score network with a wide range of sigma, 0.01 to 50, in the style of NCSN++ (Song et al. 2021, arXiv 2011.13456),
on generated coloured shapes. It uses ELU instead of SiLU, and InstanceNormalization of each channel, as NCSN (Song &
Ermon 2019, arXiv 1907.05600)."""

import torch
from denoising import Batch, Data, Trained
from torch import Tensor, nn
from torch.nn import functional as F

from fewstep.export import ScheduleSpec, Spec
from fewstep.models.blocks import time_features, upsample, zero
from fewstep.models.training import Recipe

SIZE = 24
LOWEST, HIGHEST = 0.01, 50.0
SPEC = Spec("score_wide", (3, SIZE, SIZE), (), "score", ScheduleSpec("exploding", sigma_min=LOWEST, sigma_max=HIGHEST))
RECIPE = Recipe(steps=1_500, batch=32, rate=1e-3, seed=0)
SHAPES = 3  # number of shapes in a picture, each of which covers a part of the previous ones


def shapes(count: int, generator: torch.Generator) -> Batch:
    """Return images [count, 3, 24, 24] in [-1, 1]: discs and rectangles of one colour on a background of another."""

    def drawn(*shape: int) -> Tensor:
        return torch.rand(count, *shape, generator=generator)

    rows, columns = torch.meshgrid(torch.linspace(0, 1, SIZE), torch.linspace(0, 1, SIZE), indexing="ij")
    picture = (1.6 * drawn(3, 1, 1) - 0.8).expand(-1, -1, SIZE, SIZE)
    for _ in range(SHAPES):
        centre, reach = 0.1 + 0.8 * drawn(2, 1, 1), 0.1 + 0.2 * drawn(2, 1, 1)
        a, b = (rows - centre[:, 0]) / reach[:, 0], (columns - centre[:, 1]) / reach[:, 1]
        inside = torch.where(drawn(1, 1) < 0.5, a**2 + b**2 < 1, torch.maximum(a.abs(), b.abs()) < 0.8)
        picture = torch.where(inside[:, None], 2 * drawn(3, 1, 1) - 1, picture)
    return Batch(picture, ())


class Layer(nn.Module):
    """Two dilated convolutions after norms of single channels, plus the input; the sum is divided by the root of 2."""

    def __init__(self, channels_in: int, channels: int, embedding: int, dilation: int = 1) -> None:
        super().__init__()
        self.norm1 = nn.InstanceNorm2d(channels_in, affine=True)
        self.conv1 = nn.Conv2d(channels_in, channels, 3, padding=dilation, dilation=dilation)
        self.shift = nn.Linear(embedding, channels)
        self.norm2 = nn.InstanceNorm2d(channels, affine=True)
        self.conv2 = nn.Conv2d(channels, channels, 3, padding=dilation, dilation=dilation)
        self.means = nn.Conv2d(channels_in, channels, 1)  # since the norms remove it

    def forward(self, x: Tensor, embedding: Tensor) -> Tensor:
        h = self.conv1(F.elu(self.norm1(x))) + self.shift(embedding)[:, :, None, None]
        return (self.means(x) + self.conv2(F.elu(self.norm2(h)))) / 2**0.5


class Network(nn.Module):
    """Predicts the score of x [B, 3, 24, 24] at time [B], which is sigma: noise / -sigma."""

    def __init__(self, channels: tuple[int, int, int] = (24, 48, 64), embedding: int = 96) -> None:
        super().__init__()
        fine, middle, coarse = channels
        self.features = embedding
        self.time_mlp = nn.Sequential(nn.Linear(embedding, embedding), nn.SiLU(), nn.Linear(embedding, embedding))
        self.conv_in = nn.Conv2d(3, fine, 3, padding=1)
        self.down1 = Layer(fine, fine, embedding)
        self.down2 = Layer(fine, middle, embedding)
        self.down3 = Layer(middle, coarse, embedding, 2)
        self.deep = Layer(coarse, coarse, embedding, 2)
        self.up3 = Layer(2 * coarse, middle, embedding)
        self.up2 = Layer(2 * middle, fine, embedding)
        self.up1 = Layer(2 * fine, fine, embedding)
        self.norm_out = nn.GroupNorm(8, fine)
        self.conv_out = nn.Conv2d(fine, 3, 3, padding=1)
        zero(self.conv_out)

    def forward(self, x: Tensor, time: Tensor) -> Tensor:
        sigma = time.float()[:, None, None, None]
        embedding = F.elu(self.time_mlp(time_features(250 * time.float().log() / 4, self.features)))
        h1 = self.down1(self.conv_in(x / (1 + sigma.square()).sqrt()), embedding)
        h2 = self.down2(F.avg_pool2d(h1, 2), embedding)
        h3 = self.down3(F.avg_pool2d(h2, 2), embedding)
        h = self.up3(torch.cat([self.deep(h3, embedding), h3], dim=1), embedding)
        h = self.up2(torch.cat([upsample(h), h2], dim=1), embedding)
        h = self.up1(torch.cat([upsample(h), h1], dim=1), embedding)
        return self.conv_out(F.elu(self.norm_out(h))) / sigma


DATA = Data("coloured discs and rectangles, made by code, as many as are asked for", lambda folder, split: shapes)


make = Trained(__file__, Network, SPEC)
