"""Transformer encoders of images and texts: SigLIP's and CLIP's, with the weight names of transformers.

SigLIP: Zhai et al. 2023, arXiv 2303.15343. CLIP: Radford et al. 2021, arXiv 2103.00020.
"""

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional as F

SIGLIP_EPSILON, CLIP_EPSILON = 1e-6, 1e-5  # epsilons of their LayerNorms
HIDDEN = -1e30  # added to the scores of masked tokens; finite, so that a fully masked row is not NaN


@dataclass(frozen=True)
class Shape:
    """Sizes of an encoder. `hidden` is the width of its feed-forward layers."""

    width: int
    heads: int
    layers: int
    hidden: int


def quick_gelu(x: Tensor) -> Tensor:
    """CLIP's approximation of GELU."""
    return x * torch.sigmoid(1.702 * x)


def tanh_gelu(x: Tensor) -> Tensor:
    """The tanh approximation of GELU, as in SigLIP and Gemma."""
    return F.gelu(x, approximate="tanh")


class EncoderAttention(nn.Module):
    """Multi-head self-attention with an optional mask."""

    def __init__(self, shape: Shape) -> None:
        super().__init__()
        self.heads = shape.heads
        self.q_proj, self.k_proj, self.v_proj, self.out_proj = (nn.Linear(shape.width, shape.width) for _ in range(4))

    def forward(self, x: Tensor, mask: Tensor | None) -> Tensor:
        q, k, v = (
            project(x).unflatten(2, (self.heads, -1)).transpose(1, 2)
            for project in (self.q_proj, self.k_proj, self.v_proj)
        )
        return self.out_proj(F.scaled_dot_product_attention(q, k, v, mask).transpose(1, 2).flatten(2))


class Mlp(nn.Module):
    """A linear layer, an activation, and a second linear layer."""

    def __init__(self, shape: Shape, activation: Callable[[Tensor], Tensor]) -> None:
        super().__init__()
        self.fc1, self.fc2 = nn.Linear(shape.width, shape.hidden), nn.Linear(shape.hidden, shape.width)
        self.activation = activation

    def forward(self, x: Tensor) -> Tensor:
        return self.fc2(self.activation(self.fc1(x)))


class EncoderLayer(nn.Module):
    """Self-attention and an MLP, each with a LayerNorm before it (pre-norm) and a residual connection."""

    def __init__(self, shape: Shape, activation: Callable[[Tensor], Tensor], epsilon: float) -> None:
        super().__init__()
        self.layer_norm1, self.layer_norm2 = (nn.LayerNorm(shape.width, epsilon) for _ in range(2))
        self.self_attn, self.mlp = EncoderAttention(shape), Mlp(shape, activation)

    def forward(self, x: Tensor, mask: Tensor | None = None) -> Tensor:
        x = x + self.self_attn(self.layer_norm1(x), mask)
        return x + self.mlp(self.layer_norm2(x))


class Siglip(nn.Module):
    """Encode images [N, 3, H, W] in [-1, 1] as tokens [N, patches, width].

    `positions` is the number of position embeddings along each side in training. An image with fewer patches uses the
    embeddings at the same relative places along its sides, as in SmolVLM.
    """

    places: Tensor

    def __init__(self, shape: Shape, patch: int, positions: int, size: tuple[int, int]) -> None:
        super().__init__()
        self.patch_embedding = nn.Conv2d(3, shape.width, patch, patch)
        self.position_embedding = nn.Embedding(positions**2, shape.width)
        rows, columns = (_patch_positions(side // patch, positions) for side in size)
        places = (rows[:, None] * positions + columns).flatten()
        self.register_buffer("places", places, persistent=False)
        self.layers = nn.ModuleList([EncoderLayer(shape, tanh_gelu, SIGLIP_EPSILON) for _ in range(shape.layers)])
        self.post_layernorm = nn.LayerNorm(shape.width, SIGLIP_EPSILON)

    def forward(self, pictures: Tensor) -> Tensor:
        x = self.patch_embedding(pictures).flatten(2).transpose(1, 2) + self.position_embedding.weight[self.places]
        for layer in self.layers:
            x = layer(x)
        return self.post_layernorm(x)


def _patch_positions(count: int, positions: int) -> Tensor:
    """Return the index of the position embedding of each of `count` patches along a side with `positions`
    embeddings."""
    bounds = torch.arange(1 / positions, 1.0, 1 / positions, device="cpu")
    shares = (torch.arange(count, dtype=torch.float32, device="cpu") / count).clamp(max=1 - SIGLIP_EPSILON)
    return torch.bucketize(shares, bounds, right=True)


class ClipVision(nn.Module):
    """Encode normalised images [N, 3, H, W] as the class token [N, width] after the last layer."""

    def __init__(self, shape: Shape, patch: int, positions: int) -> None:
        super().__init__()
        self.class_embedding = nn.Parameter(torch.zeros(shape.width))
        self.patch_embedding = nn.Conv2d(3, shape.width, patch, patch, bias=False)
        self.position_embedding = nn.Embedding(positions, shape.width)
        self.pre_layrnorm = nn.LayerNorm(shape.width, CLIP_EPSILON)
        self.layers = nn.ModuleList([EncoderLayer(shape, quick_gelu, CLIP_EPSILON) for _ in range(shape.layers)])

    def forward(self, pictures: Tensor) -> Tensor:
        patches = self.patch_embedding(pictures).flatten(2).transpose(1, 2)
        first = self.class_embedding.expand(patches.shape[0], 1, -1)
        x = self.pre_layrnorm(torch.cat([first, patches], dim=1) + self.position_embedding.weight)
        for layer in self.layers:
            x = layer(x)
        return x[:, 0]


class ClipText(nn.Module):
    """Encode token ids [N, length] and their mask as a vector [N, projected]: the projected end-of-text token.

    The end-of-text token has the highest id of the vocabulary, and padding follows it.
    """

    causal: Tensor

    def __init__(self, shape: Shape, vocabulary: int, positions: int, projected: int) -> None:
        super().__init__()
        self.token_embedding = nn.Embedding(vocabulary, shape.width)
        self.position_embedding = nn.Embedding(positions, shape.width)
        self.layers = nn.ModuleList([EncoderLayer(shape, quick_gelu, CLIP_EPSILON) for _ in range(shape.layers)])
        self.final_layer_norm = nn.LayerNorm(shape.width, CLIP_EPSILON)
        self.projection = nn.Linear(shape.width, projected)

    def forward(self, *inputs: Tensor) -> tuple[Tensor, ...]:
        ids, mask = inputs
        length = ids.shape[1]
        causal = torch.full((length, length), HIDDEN).triu(1)
        unseen = (1 - mask[:, None, None].float()) * HIDDEN + causal
        x = self.token_embedding(ids) + self.position_embedding.weight[:length]
        for layer in self.layers:
            x = layer(x, unseen)
        ends = (ids == ids.max(dim=1, keepdim=True).values).float()
        first = ends * (ends.cumsum(dim=1) == 1).float()  # padding may repeat the end token
        return (self.projection(self.final_layer_norm((x * first[:, :, None]).sum(dim=1))),)
