"""A masked autoregressive model of Fashion-MNIST: 7x7 patches of 4x4 pixels, each drawn by a small diffusion head (MAR:
Li et al. 2024, arXiv 2406.11838).

    python -m benchmarks.train autoregression/masked_autoregression --work DIR
    fewstep export benchmarks/autoregression/masked_autoregression.py:make -o head

A transformer sees the known patches and says z of each open one; the head denoises a patch at its z. They are trained
together, and the head alone is exported as a denoiser. Two things are smaller than in the authors' code: one
transformer sees known and open patches, and the class is added to all of them.
"""

import sys
from functools import cache
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from fewstep.export import Condition, ScheduleSpec, Spec
from fewstep.models.blocks import time_features, zero
from fewstep.models.fashion_mnist import data
from fewstep.models.fashion_mnist.unet import NULL_CLASS
from fewstep.models.training import Loss, Recipe, drop_labels
from fewstep.models.weights import load_weights
from fewstep.plans.schedule import NoiseSchedule

sys.path.append(str(Path(__file__).parents[1] / "tokens"))
from codebooks import PATCH, POSITIONS, patches
from masked_transformer import SPREAD, MaskedBlock, opened

PIXELS = PATCH * PATCH
WIDTH, HEAD_WIDTH = 192, 192
RECIPE = Recipe(steps=1_620, batch=48, rate=1e-3, seed=0)
REPEATS = 2  # noises and times of a patch in a batch
SPEC = Spec(
    "patch_head",
    (PIXELS,),
    (Condition("z", "z", shape=(WIDTH,), dtype="float32", typical=(-3.0, 3.0)),),
    "epsilon",
    ScheduleSpec("cosine"),
)


class Backbone(nn.Module):
    """`forward(patches [B, 49, 16], is_open [B, 49, 1] of 0 and 1, label [B])` -> z [B, 49, 192]."""

    def __init__(self, blocks: int = 4, heads: int = 4) -> None:
        super().__init__()
        self.embed, self.label = nn.Linear(PIXELS, WIDTH), nn.Embedding(NULL_CLASS + 1, WIDTH)
        self.unknown = nn.Parameter(SPREAD * torch.randn(WIDTH))
        self.places = nn.Parameter(SPREAD * torch.randn(POSITIONS, WIDTH))
        self.places_of_z = nn.Parameter(SPREAD * torch.randn(POSITIONS, WIDTH))
        self.blocks = nn.ModuleList(MaskedBlock(WIDTH, heads) for _ in range(blocks))
        self.norm = nn.LayerNorm(WIDTH)
        nn.init.normal_(self.label.weight, std=SPREAD)

    def forward(self, patches: Tensor, is_open: Tensor, label: Tensor) -> Tensor:
        x = self.embed(patches) * (1 - is_open) + self.unknown * is_open + self.places + self.label(label)[:, None]
        for block in self.blocks:
            x = block(x)
        return self.norm(x) + self.places_of_z


class HeadBlock(nn.Module):
    """Two linear layers behind a norm, whose scale, shift and gate follow from time and z."""

    def __init__(self) -> None:
        super().__init__()
        self.norm, self.modulation = nn.LayerNorm(HEAD_WIDTH, eps=1e-6), nn.Linear(HEAD_WIDTH, 3 * HEAD_WIDTH)
        self.up, self.down = nn.Linear(HEAD_WIDTH, HEAD_WIDTH), nn.Linear(HEAD_WIDTH, HEAD_WIDTH)
        zero(self.modulation)

    def forward(self, x: Tensor, y: Tensor) -> Tensor:
        shift, scale, gate = self.modulation(y).chunk(3, dim=1)
        return x + gate * self.down(F.silu(self.up(self.norm(x) * (1 + scale) + shift)))


class PatchHead(nn.Module):
    """`forward(x [B, 16], time [B], z [B, 192])` -> the noise in x."""

    def __init__(self, blocks: int = 3) -> None:
        super().__init__()
        self.enter, self.at_z = nn.Linear(PIXELS, HEAD_WIDTH), nn.Linear(WIDTH, HEAD_WIDTH)
        self.time1, self.time2 = nn.Linear(HEAD_WIDTH, HEAD_WIDTH), nn.Linear(HEAD_WIDTH, HEAD_WIDTH)
        self.blocks = nn.ModuleList(HeadBlock() for _ in range(blocks))
        self.norm = nn.LayerNorm(HEAD_WIDTH, eps=1e-6, elementwise_affine=False)
        self.modulation, self.leave = nn.Linear(HEAD_WIDTH, 2 * HEAD_WIDTH), nn.Linear(HEAD_WIDTH, PIXELS)
        zero(self.modulation), zero(self.leave)

    def forward(self, x: Tensor, time: Tensor, z: Tensor) -> Tensor:
        y = F.silu(self.time2(F.silu(self.time1(time_features(time, HEAD_WIDTH)))) + self.at_z(z))
        h = self.enter(x)
        for block in self.blocks:
            h = block(h, y)
        shift, scale = self.modulation(y).chunk(2, dim=1)
        return self.leave(self.norm(h) * (1 + scale) + shift)


class Autoregression(nn.Module):
    """The backbone and the head, which are trained together."""

    def __init__(self) -> None:
        super().__init__()
        self.backbone, self.head = Backbone(), PatchHead()


def training(folder: Path | None, split: str) -> tuple[nn.Module, Loss]:
    """The network before its training, and the squared error of the noise in the open patches of a batch."""
    pictures, labels = data.read(folder or data.DEBIAN_FOLDER, "t10k" if split == "test" else split)
    all_patches = patches(torch.from_numpy(pictures.copy())[:, None].float() / 127.5 - 1)
    all_labels = torch.from_numpy(labels.copy()).long()
    steps, schedule = SPEC.schedule.timesteps, NoiseSchedule(SPEC.schedule)
    alpha, sigma = (torch.tensor([each(time) for time in range(steps)]) for each in (schedule.alpha, schedule.sigma))

    def loss(network: nn.Module, generator: torch.Generator) -> Tensor:
        rows = torch.randint(len(all_patches), (RECIPE.batch,), generator=generator)
        clean, label = all_patches[rows], drop_labels(all_labels[rows], NULL_CLASS, generator)
        unknown = opened(clean[:, None, :, 0], generator)[:, 0]
        z = network.backbone(clean, unknown[..., None].float(), label)[unknown].repeat(REPEATS, 1)
        x0 = clean[unknown].repeat(REPEATS, 1)
        noise, time = torch.randn(x0.shape, generator=generator), torch.randint(steps, (len(x0),), generator=generator)
        x = alpha[time, None] * x0 + sigma[time, None] * noise
        return F.mse_loss(network.head(x, time.float(), z).float(), noise)

    return Autoregression(), loss


@cache
def trained() -> Autoregression:
    return load_weights(Autoregression(), Path(__file__).with_suffix(".safetensors"))


def make() -> tuple[nn.Module, Spec]:
    """The head, with its interface."""
    return trained().head, SPEC
