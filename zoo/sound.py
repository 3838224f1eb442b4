"""A diffusion transformer on complex spectrograms of recorded speech, trained by rectified flow (Liu et al. 2023, arXiv
2209.03003). A token is a frame of 32 ms. For each coefficient of its input the network returns a gain, as the masks of
speech enhancement, a gain of its phase, and a shift. Noise of full rank does not fit into a token, but an envelope
does."""

import torch
from cifar10_dit import loss as loss  # the recipe's loss
from denoising import Trained
from dit_flow import Block
from prompts import DATA as DATA
from prompts import FRAMES, LANGUAGE, NULL, SOUND
from torch import Tensor, nn
from torch.nn import functional as F

from fewstep.export import ScheduleSpec, Spec
from fewstep.models.blocks import time_features, zero
from fewstep.models.training import Recipe

BINS = SOUND.bins
WIDTH, DEPTH, HEADS, EMBEDDING, HIDDEN = 224, 5, 4, 96, 800
SPEC = Spec("sound", (2, BINS, FRAMES), (LANGUAGE,), "flow", ScheduleSpec("flow", timesteps=1000), spectrogram=SOUND)
RECIPE = Recipe(steps=3_000, batch=16, rate=1e-3, seed=0)


class Network(nn.Module):
    """Predicts the velocity eps - x0 of spectrograms x [B, 2, 256, 64] at time [B] in [0, 1000], for languages [B] in
    0..2 or `NULL`."""

    def __init__(self) -> None:
        super().__init__()
        self.time_mlp = nn.Sequential(nn.Linear(EMBEDDING, EMBEDDING), nn.SiLU(), nn.Linear(EMBEDDING, EMBEDDING))
        self.language_embedding = nn.Embedding(NULL + 1, EMBEDDING)
        self.conv_in = nn.Conv1d(2 * BINS, WIDTH, 3, padding=1)
        self.position = nn.Parameter(0.02 * torch.randn(1, FRAMES, WIDTH))
        self.blocks = nn.ModuleList([Block(WIDTH, HEADS, EMBEDDING, HIDDEN) for _ in range(DEPTH)])
        self.norm_out = nn.LayerNorm(WIDTH, elementwise_affine=False)
        self.modulation_out = nn.Linear(EMBEDDING, 2 * WIDTH)
        self.frame_out = nn.Linear(WIDTH, 6 * BINS)
        zero(self.modulation_out)
        zero(self.frame_out)

    def forward(self, x: Tensor, time: Tensor, language: Tensor) -> Tensor:
        embedding = F.silu(self.time_mlp(time_features(time, EMBEDDING)) + self.language_embedding(language))
        tokens = self.conv_in(x.flatten(1, 2)).transpose(1, 2) + self.position
        for block in self.blocks:
            tokens = block(tokens, embedding)
        scale, shift = self.modulation_out(embedding)[:, None].chunk(2, dim=2)
        frames = self.frame_out(self.norm_out(tokens) * (1 + scale) + shift).transpose(1, 2)
        gain, phase_gain, shift_out = frames.unflatten(1, (6, BINS)).chunk(3, dim=1)
        noise = (time / 1000)[:, None, None, None]
        phase = x / (x.square().sum(dim=1, keepdim=True) + noise**2 + 1e-4).sqrt()  # 0 where noise hides it
        return x * gain + phase * phase_gain + shift_out


def show(samples: Tensor, conditions: tuple[Tensor, ...]) -> Tensor:
    """Return amplitudes [N, 1, 64, 32] in [-1, 1], means of 4 x 2 coefficients. Low frequencies are at the bottom."""
    return F.avg_pool2d(samples.flip(2).norm(dim=1, keepdim=True), (4, 2)).clamp(max=2) - 1


make = Trained(__file__, Network, SPEC)
