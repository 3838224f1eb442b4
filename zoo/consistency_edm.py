"""A student for one and two steps in EDM's preconditioning, from sigma 80 (Karras et al. 2022, arXiv 2206.00364), with
ADM's blocks, like consistency models (Song et al. 2023, arXiv 2303.01469). Its residual stream has no norm, and the
outputs that blocks add to it grow from block to block.

It is trained on pairs of noise and the shipped denoiser's guided sample, as InstaFlow (Liu et al. 2024, arXiv
2309.06380). Half of each batch starts from pure noise, the rest from lower noise levels.

    python -m zoo.pairs --work PAIRS --last 11
    python -m zoo.pairs --work PAIRS --first 31
    python -m lab.train zoo/consistency_edm --work FOLDER --data PAIRS
"""

from pathlib import Path

import torch
from denoising import Trained
from pairs import read
from strangers import Attention, Block, Norm
from torch import Tensor, nn
from torch.nn import functional as F

from fewstep.export import Condition, ScheduleSpec, Spec
from fewstep.models.blocks import time_features, upsample, zero
from fewstep.models.fashion_mnist.unet import CLASSES, IMAGE_SHAPE
from fewstep.models.training import Loss, Recipe

LOWEST, HIGHEST, DATA_DEVIATION = 0.002, 80.0, 0.5
LEAST = 0.1  # least sigma in training
TIME_SCALE = 250.0  # scale of log(sigma) / 4, which the network takes as its time
SCHEDULE = ScheduleSpec("edm", sigma_min=LOWEST, sigma_max=HIGHEST, sigma_data=DATA_DEVIATION, time_scale=TIME_SCALE)
LABEL = Condition("class", input="label", low=0, high=len(CLASSES) - 1, labels=CLASSES)
SPEC = Spec("consistency_edm", IMAGE_SHAPE, (LABEL,), "edm", SCHEDULE, distilled=True)
RECIPE = Recipe(steps=700, batch=32, rate=1e-3, seed=0)
GROWTH = 4.0  # downsampling: factor between the outputs of successive blocks
LATE = 0.3  # upsampling: factor over the last output of the downsampling half


class Network(nn.Module):
    """EDM's raw network F(c_in x) for x [B, 1, 28, 28], time [B] and labels [B]."""

    def __init__(self, channels: tuple[int, int, int] = (24, 48, 72), embedding: int = 96) -> None:
        super().__init__()
        fine, middle, coarse = channels
        self.features = embedding
        self.time_mlp = nn.Sequential(nn.Linear(embedding, embedding), nn.SiLU(), nn.Linear(embedding, embedding))
        self.classes = nn.Embedding(len(CLASSES), embedding)
        self.conv_in = nn.Conv2d(1, fine, 3, padding=1)
        growths = [GROWTH**number for number in range(6)] + 4 * [LATE * GROWTH**5]
        widths = [(fine, fine), (fine, middle), (middle, middle), (middle, coarse)]
        self.down = nn.ModuleList(Block(a, b, embedding, growths[i], gated=True) for i, (a, b) in enumerate(widths))
        self.attention = Attention(coarse, growth=growths[4])
        self.middle = Block(coarse, coarse, embedding, growths[5], gated=True)
        widths = [(2 * coarse, coarse), (coarse + middle, middle), (2 * middle, middle), (middle + fine, fine)]
        self.up = nn.ModuleList(Block(a, b, embedding, growths[6 + i]) for i, (a, b) in enumerate(widths))
        self.norm_out = Norm(fine)
        self.conv_out = nn.Conv2d(fine, 1, 3, padding=1)
        zero(self.conv_out)

    def forward(self, x: Tensor, time: Tensor, label: Tensor) -> Tensor:
        embedding = F.silu(self.time_mlp(time_features(time, self.features)) + self.classes(label))
        kept, h = [], self.conv_in(x)
        for number, block in enumerate(self.down):
            h = block(h, embedding)
            kept.append(h)
            h = F.avg_pool2d(h, 2) if number in (0, 2) else h  # 28, 14, 7
        h = self.middle(self.attention(h), embedding)
        for number, block in enumerate(self.up):
            h = block(torch.cat([h, kept.pop()], dim=1), embedding)
            h = upsample(h) if number in (0, 2) else h
        return self.conv_out(F.silu(self.norm_out(h)))


def denoised(network: nn.Module, x: Tensor, sigma: Tensor, label: Tensor) -> Tensor:
    """Return x0 [B, 1, 28, 28] from x = x0 + sigma eps, for sigma [B]."""
    s = sigma[:, None, None, None]
    total = (s.square() + DATA_DEVIATION**2).sqrt()
    output = network(x / total, TIME_SCALE / 4 * sigma.log(), label).float()
    return DATA_DEVIATION**2 / total.square() * x + s * DATA_DEVIATION / total * output


def training(folder: Path | None, split: str) -> tuple[nn.Module, Loss]:
    """Return the network, and its loss on the folder's pairs. Half of a batch is at the highest sigma, the rest at
    lower ones."""
    if folder is None:
        raise SystemExit("name the folder of pairs: --data PAIRS")
    noise, sample, label = read(folder, split)

    def loss(network: nn.Module, generator: torch.Generator) -> Tensor:
        rows = torch.randint(len(noise), (RECIPE.batch,), generator=generator)
        shares = torch.rand(RECIPE.batch, generator=generator)
        shares[::2] = 1.0
        sigma = LEAST * (HIGHEST / LEAST) ** shares
        x = sample[rows] + sigma[:, None, None, None] * noise[rows]
        error = (denoised(network, x, sigma, label[rows]) - sample[rows]).square().sum(dim=(1, 2, 3))
        weight = (1 / sigma.square() + 1 / DATA_DEVIATION**2).clamp(max=25.0)
        return (weight * ((error + 0.06).sqrt() - 0.06**0.5)).mean()  # pseudo-Huber loss

    return Network(), loss


make = Trained(__file__, Network, SPEC)
