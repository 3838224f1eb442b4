"""LeRobot's multi-task diffusion transformer: a transformer over the actions, conditioned on CLIP's features of each
camera, the state and an encoded text (TRI LBM Team 2025, arXiv 2507.05331)."""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from fewstep.robots.networks.decoder import Rotation, apply_rotary_embedding, rotary_embedding
from fewstep.robots.networks.encoders import ClipVision, Shape
from fewstep.robots.networks.transformer import Attention
from fewstep.robots.networks.unet1d import TimeFeatures
from fewstep.robots.networks.vision import CentreCrop, Resize, Size

WIDER = 4  # width of the feed-forward layers, relative to the tokens
EPSILON = 1e-6


@dataclass(frozen=True)
class ClipView:
    """CLIP encoders for images of one `size`: `encoders` is the number of cameras, or 1 if they share an encoder."""

    cameras: int
    encoders: int
    shape: Shape
    patch: int
    positions: int
    size: Size
    resize: Size | None
    crop: Size | None


@dataclass(frozen=True)
class DitShape:
    """Sizes of the transformer. `rope`: the base of its rotary positions; None without them. `learned`: whether learned
    positions are added."""

    horizon: int
    actions: int
    width: int
    heads: int
    layers: int
    time_width: int
    rope: float | None
    learned: bool


class RotaryAttention(nn.Module):
    """Self-attention with rotary position embeddings. The projections of queries, keys and values are stored in one
    weight."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.qkv_proj, self.out_proj = nn.Linear(width, 3 * width), nn.Linear(width, width)

    def forward(self, x: Tensor, by: Rotation) -> Tensor:
        q, k, v = self.qkv_proj(x).unflatten(2, (3, self.heads, -1)).permute(2, 0, 3, 1, 4)
        read = F.scaled_dot_product_attention(apply_rotary_embedding(q, by), apply_rotary_embedding(k, by), v)
        return self.out_proj(read.transpose(1, 2).flatten(2))


class DitBlock(nn.Module):
    """Attention and feed-forward, whose scales, shifts and gates are computed from the condition (adaLN-Zero: Peebles
    and Xie 2023, arXiv 2212.09748)."""

    def __init__(self, shape: DitShape, condition: int) -> None:
        super().__init__()
        width = shape.width
        if shape.rope is None:
            self.multihead_attn = Attention(width, shape.heads)
        else:
            self.attn = RotaryAttention(width, shape.heads)
        self.norm1, self.norm2 = (nn.LayerNorm(width, EPSILON, elementwise_affine=False) for _ in range(2))
        self.mlp = nn.Sequential(nn.Linear(width, WIDER * width), nn.GELU("tanh"), nn.Linear(WIDER * width, width))
        self.adaLN_modulation = nn.ModuleDict({"1": nn.Linear(condition, 6 * width)})

    def forward(self, x: Tensor, condition: Tensor, by: Rotation | None) -> Tensor:
        shift, scale, gate, shift2, scale2, gate2 = self.adaLN_modulation["1"](condition)[:, None].chunk(6, dim=2)
        normed = self.norm1(x) * (1 + scale) + shift
        x = x + gate * (self.multihead_attn(normed, normed, None) if by is None else self.attn(normed, by))
        return x + gate2 * self.mlp(self.norm2(x) * (1 + scale2) + shift2)


class MultiTaskDit(nn.Module):
    """The denoiser of noisy actions [B, horizon, actions] at time [B].

    It is conditioned on normalised states [B, observations, n], one image [B, observations, 3, H, W] per camera, and
    the encoded text [B, width].

    `flows`: the network was trained to predict data - noise, with time 1 for data. Here the output is noise - data,
    with time 1 for noise.
    """

    def __init__(self, shape: DitShape, observations: int, state: int, view: ClipView | None, *, flows: bool) -> None:
        super().__init__()
        self.shape, self.view, self.flows = shape, view, flows
        features = state + shape.width
        if view is not None:
            features += view.cameras * view.shape.width
            size = view.resize or view.size
            self.resize = nn.Identity() if view.resize is None else Resize(view.size, view.resize)
            self.crop = nn.Identity() if view.crop is None else CentreCrop(size, view.crop)
            clips = [ClipVision(view.shape, view.patch, view.positions) for _ in range(view.encoders)]
            self.vision = nn.ModuleList(clips)
        self.time = TimeFeatures(shape.time_width)
        self.time_mlp = nn.Sequential(
            self.time,
            nn.Linear(shape.time_width, 2 * shape.time_width),
            nn.GELU(),
            nn.Linear(2 * shape.time_width, shape.time_width),
            nn.GELU(),
        )
        self.input_proj = nn.Linear(shape.actions, shape.width)
        if shape.learned:
            self.pos_embedding = nn.Parameter(torch.zeros(1, shape.horizon, shape.width))
        condition = shape.time_width + observations * features
        self.transformer_blocks = nn.ModuleList([DitBlock(shape, condition) for _ in range(shape.layers)])
        self.output_proj = nn.Linear(shape.width, shape.actions)

    def forward(self, x: Tensor, time: Tensor, state: Tensor, pictures: Sequence[Tensor], text: Tensor) -> Tensor:
        shape, observations = self.shape, state.shape[1]
        seen = torch.cat(
            [state, *self._encode_cameras(pictures), text[:, None].expand(-1, observations, -1)], dim=2
        ).flatten(1)
        timed = self.time_mlp(1 - time if self.flows else time)
        condition = torch.cat([F.silu(timed), F.silu(seen)], dim=1)  # separate, so that `seen` runs once per call
        by = (
            None
            if shape.rope is None
            else rotary_embedding(torch.arange(shape.horizon)[None], shape.width // shape.heads, shape.rope)
        )
        h = self.input_proj(x) + (self.pos_embedding if shape.learned else 0)
        for block in self.transformer_blocks:
            h = block(h, condition, by)
        out = self.output_proj(h)
        return -out if self.flows else out

    def _encode_cameras(self, pictures: Sequence[Tensor]) -> list[Tensor]:
        """Return the features [B, observations, n] of the cameras."""
        if self.view is None:
            return []
        observations = pictures[0].shape[1]
        framed = [self.crop(self.resize(picture.flatten(0, 1))) for picture in pictures]
        if len(self.vision) == 1:  # one call for all cameras
            together = self.vision[0](torch.stack(framed, dim=1).flatten(0, 1))
            return [together.unflatten(0, (-1, observations, len(framed))).flatten(2)]
        encoded = [encoder(each) for encoder, each in zip(self.vision, framed, strict=True)]
        return [each.unflatten(0, (-1, observations)) for each in encoded]
