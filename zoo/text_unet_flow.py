"""A U-Net that takes a caption by cross-attention, in the style of latent diffusion (Rombach et al. 2022, arXiv
2112.10752), trained by rectified flow. Its text encoder is one transformer block over eight tokens."""

import captions
import torch
from denoising import Trained
from torch import Tensor, nn
from torch.nn import functional as F

from fewstep.export import ScheduleSpec, Spec
from fewstep.models.blocks import ResidualBlock, SelfAttention, time_features, upsample, zero
from fewstep.models.training import Recipe

SPEC = Spec(
    "text_unet_flow",
    (3, captions.SIZE, captions.SIZE),
    (captions.TEXT,),
    "flow",
    ScheduleSpec("flow", timesteps=1000),
)
BLOCK = 2
RECIPE = Recipe(steps=1_600, batch=32, rate=1e-3, seed=0)
DATA = captions.CAPTIONED
rows, drawn = captions.rows, captions.drawn


class TextEncoder(nn.Module):
    """Features [B, 8, width] of tokens [B, 8]. They depend only on the tokens, so they are not part of the body."""

    def __init__(self, width: int, heads: int = 4) -> None:
        super().__init__()
        self.heads = heads
        self.words = nn.Embedding(len(captions.WORDS), width)
        self.position = nn.Parameter(0.02 * torch.randn(1, captions.LENGTH, width))
        self.norm1, self.norm2, self.norm_out = (nn.LayerNorm(width) for _ in range(3))
        self.qkv, self.out = nn.Linear(width, 3 * width), nn.Linear(width, width)
        self.first, self.last = nn.Linear(width, 2 * width), nn.Linear(2 * width, width)

    def forward(self, tokens: Tensor) -> Tensor:
        h = self.words(tokens) + self.position
        q, k, v = self.qkv(self.norm1(h)).unflatten(2, (3, self.heads, -1)).permute(2, 0, 3, 1, 4)
        h = h + self.out(F.scaled_dot_product_attention(q, k, v).transpose(1, 2).flatten(2))
        h = h + self.last(F.gelu(self.first(self.norm2(h))))
        return self.norm_out(h)


class CrossAttention(nn.Module):
    """Attention of pixels to the words of a text, with a residual connection."""

    def __init__(self, channels: int, width: int, heads: int = 4) -> None:
        super().__init__()
        self.heads = heads
        self.norm = nn.GroupNorm(8, channels)
        self.query, self.out = nn.Linear(channels, channels), nn.Linear(channels, channels)
        self.keys_values = nn.Linear(width, 2 * channels)
        zero(self.out)

    def forward(self, x: Tensor, text: Tensor) -> Tensor:
        pixels = self.norm(x).flatten(2).transpose(1, 2)
        q = self.query(pixels).unflatten(2, (self.heads, -1)).transpose(1, 2)
        k, v = self.keys_values(text).unflatten(2, (2, self.heads, -1)).permute(2, 0, 3, 1, 4)
        attended = F.scaled_dot_product_attention(q, k, v).transpose(1, 2).flatten(2)
        return x + self.out(attended).transpose(1, 2).unflatten(2, x.shape[2:])


class Layer(nn.Module):
    """A residual block with the time as input, then attention to the text, and at low resolution attention to all
    pixels."""

    def __init__(self, channels_in: int, channels: int, embedding: int, width: int, *, is_coarse: bool) -> None:
        super().__init__()
        self.block = ResidualBlock(channels_in, channels, embedding)
        self.pixels = SelfAttention(channels) if is_coarse else None
        self.text = CrossAttention(channels, width)

    def forward(self, x: Tensor, time: Tensor, text: Tensor) -> Tensor:
        x = self.block(x, time)
        return self.text(x if self.pixels is None else self.pixels(x), text)


class Network(nn.Module):
    """Predicts the velocity eps - x0 of x [B, 3, 28, 28] at time [B] in [0, 1000], for tokens [B, 8]; all 0 means no
    text. It processes blocks of 2 x 2 pixels."""

    def __init__(self, channels: tuple[int, int] = (48, 96), embedding: int = 128, width: int = 64) -> None:
        super().__init__()
        fine, coarse = channels
        self.features = embedding
        self.time_mlp = nn.Sequential(nn.Linear(embedding, embedding), nn.SiLU(), nn.Linear(embedding, embedding))
        self.encoder = TextEncoder(width)
        self.conv_in = nn.Conv2d(3 * BLOCK**2, fine, 3, padding=1)
        self.down = Layer(fine, fine, embedding, width, is_coarse=False)
        self.to_coarse = nn.Conv2d(fine, coarse, 3, stride=2, padding=1)
        self.bottom1 = Layer(coarse, coarse, embedding, width, is_coarse=True)
        self.bottom2 = Layer(coarse, coarse, embedding, width, is_coarse=True)
        self.from_coarse = nn.Conv2d(coarse, fine, 3, padding=1)
        self.up1 = Layer(2 * fine, fine, embedding, width, is_coarse=False)
        self.up2 = Layer(fine, fine, embedding, width, is_coarse=False)
        self.norm_out = nn.GroupNorm(8, fine)
        self.conv_out = nn.Conv2d(fine, 3 * BLOCK**2, 3, padding=1)
        zero(self.conv_out)

    def forward(self, x: Tensor, time: Tensor, tokens: Tensor) -> Tensor:
        embedding, text = F.silu(self.time_mlp(time_features(time, self.features))), self.encoder(tokens)
        fine = self.down(self.conv_in(F.pixel_unshuffle(x, BLOCK)), embedding, text)
        h = self.bottom2(self.bottom1(self.to_coarse(fine), embedding, text), embedding, text)
        h = self.up1(torch.cat([self.from_coarse(upsample(h)), fine], 1), embedding, text)
        h = self.up2(h, embedding, text)
        return F.pixel_shuffle(self.conv_out(F.silu(self.norm_out(h))), BLOCK)


make = Trained(__file__, Network, SPEC)
