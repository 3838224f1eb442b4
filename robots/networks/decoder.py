"""Layers of language models for a policy's prefix and its action expert, with transformers' weight names.

Rotary positions (Su et al. 2021, arXiv 2104.09864), grouped queries (Ainslie et al. 2023, arXiv 2305.13245), RMSNorm
(Zhang and Sennrich 2019, arXiv 1910.07467), gated feed-forward layers (Shazeer 2020, arXiv 2002.05202).
"""

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional as F

WAVELENGTH = 10_000  # the base of the rotary frequencies

Memory = tuple[Tensor, Tensor]  # keys and values [B, groups, S, head] of the tokens seen so far
Rotation = tuple[Tensor, Tensor]  # cosines and sines [B, 1, T, head / 2]


@dataclass(frozen=True)
class DecoderShape:
    """The sizes of a decoder layer.

    heads: number of query heads of width `head`, which share `groups` heads of keys and values.
    hidden: width of the feed-forward layer.
    condition: width of the condition of adaptive norms; 0 without adaptive norms.
    memory: for a layer that attends only to keys and values of other layers, the width of these; otherwise 0.
    """

    width: int
    heads: int
    groups: int
    head: int
    hidden: int
    condition: int = 0
    memory: int = 0


def rotary_embedding(positions: Tensor, head: int, longest: float = WAVELENGTH) -> Rotation:
    """Return cosines and sines for token positions [B, T]."""
    exponents = torch.arange(head // 2, dtype=torch.float32) * (2 / head)
    angles = positions[:, None, :, None].float() / longest**exponents
    return angles.cos(), angles.sin()


def apply_rotary_embedding(x: Tensor, by: Rotation) -> Tensor:
    """Rotate queries or keys [B, heads, T, head]: the first half of a head is paired with the second half."""
    cos, sin = by
    first, second = x.chunk(2, dim=-1)
    return torch.cat([first * cos - second * sin, second * cos + first * sin], dim=-1)


class RmsNorm(nn.Module):
    """RMSNorm with the interface of `AdaptiveRmsNorm`. `forward` ignores the condition and returns None as the gate."""

    def __init__(self, width: int, epsilon: float) -> None:
        super().__init__()
        self.weight, self.epsilon = nn.Parameter(torch.ones(width)), epsilon

    def forward(self, x: Tensor, _: Tensor | None = None) -> tuple[Tensor, Tensor | None]:
        return _normalize(x, self.epsilon) * self.weight, None


class AdaptiveRmsNorm(nn.Module):
    """RMSNorm whose scale, shift and gate are computed from a condition [B, width]: pi0.5's adaRMS (Physical
    Intelligence 2025, arXiv 2504.16054)."""

    def __init__(self, width: int, epsilon: float, condition: int) -> None:
        super().__init__()
        self.dense, self.epsilon = nn.Linear(condition, 3 * width), epsilon

    def forward(self, x: Tensor, condition: Tensor) -> tuple[Tensor, Tensor | None]:
        scale, shift, gate = self.dense(condition)[:, None].chunk(3, dim=-1)
        return _normalize(x, self.epsilon) * (1 + scale) + shift, gate


def make_norm(shape: DecoderShape, epsilon: float) -> nn.Module:
    """Return the norm for layers of a shape."""
    if shape.condition:
        return AdaptiveRmsNorm(shape.width, epsilon, shape.condition)
    return RmsNorm(shape.width, epsilon)


def _normalize(x: Tensor, epsilon: float) -> Tensor:
    return x * torch.rsqrt(x.square().mean(dim=-1, keepdim=True) + epsilon)


class GroupedAttention(nn.Module):
    """Grouped-query attention: several query heads share the keys and values of one group."""

    def __init__(self, shape: DecoderShape) -> None:
        super().__init__()
        self.shape = shape
        queries, keys, seen = shape.heads * shape.head, shape.groups * shape.head, shape.memory or shape.width
        self.q_proj, self.o_proj = (
            nn.Linear(shape.width, queries, bias=False),
            nn.Linear(queries, shape.width, bias=False),
        )
        self.k_proj, self.v_proj = nn.Linear(seen, keys, bias=False), nn.Linear(seen, keys, bias=False)

    def project_tokens(self, x: Tensor, by: Rotation) -> Memory:
        """Return the keys and values of tokens [B, T, width]."""
        return apply_rotary_embedding(self._split(self.k_proj(x)), by), self._split(self.v_proj(x))

    def project_memory(self, memory: Memory) -> Memory:
        """Return keys and values projected from other layers' keys and values."""
        keys, values = (tensor.transpose(1, 2).flatten(2) for tensor in memory)
        return self._split(self.k_proj(keys)), self._split(self.v_proj(values))

    def forward(self, x: Tensor, memory: Memory, by: Rotation, unseen: Tensor) -> Tensor:
        """Attend from x to the memory. `unseen` [B, 1, heads / groups * T or 1, S] is added to the scores.

        The queries of a group are concatenated, so that keys need not be repeated.
        """
        groups, tokens = self.shape.groups, x.shape[1]
        queries = apply_rotary_embedding(self._split(self.q_proj(x)), by).unflatten(1, (groups, -1)).flatten(2, 3)
        read = F.scaled_dot_product_attention(queries, *memory, unseen)
        return self.o_proj(read.unflatten(2, (-1, tokens)).flatten(1, 2).transpose(1, 2).flatten(2))

    def _split(self, x: Tensor) -> Tensor:
        return x.unflatten(2, (-1, self.shape.head)).transpose(1, 2)


class GatedMlp(nn.Module):
    """A feed-forward layer whose hidden values are multiplied by an activated gate."""

    def __init__(self, shape: DecoderShape, activation: Callable[[Tensor], Tensor]) -> None:
        super().__init__()
        self.gate_proj, self.up_proj = (nn.Linear(shape.width, shape.hidden, bias=False) for _ in range(2))
        self.down_proj = nn.Linear(shape.hidden, shape.width, bias=False)
        self.activation = activation

    def forward(self, x: Tensor) -> Tensor:
        return self.down_proj(self.activation(self.gate_proj(x)) * self.up_proj(x))


class DecoderLayer(nn.Module):
    """Attention and feed-forward, each after its norm (pre-norm).

    `forward` returns the tokens, and the keys and values that later tokens may attend to. A layer whose shape has
    `memory` attends only to the memory; other layers attend to the memory and to their own tokens.
    """

    def __init__(self, shape: DecoderShape, activation: Callable[[Tensor], Tensor], epsilon: float) -> None:
        super().__init__()
        self.crosses = bool(shape.memory)
        self.input_layernorm, self.post_attention_layernorm = (make_norm(shape, epsilon) for _ in range(2))
        self.self_attn, self.mlp = GroupedAttention(shape), GatedMlp(shape, activation)

    def forward(
        self, x: Tensor, by: Rotation, unseen: Tensor, memory: Memory | None = None, condition: Tensor | None = None
    ) -> tuple[Tensor, Memory]:
        normed, gate = self.input_layernorm(x, condition)
        if self.crosses:
            assert memory is not None
            seen = self.self_attn.project_memory(memory)
        else:
            seen = self.self_attn.project_tokens(normed, by)
            if memory is not None:
                keys, values = (torch.cat(each, dim=2) for each in zip(memory, seen, strict=True))
                seen = keys, values
        read = self.self_attn(normed, seen, by, unseen)
        x = x + (read if gate is None else read * gate)
        normed, gate = self.post_attention_layernorm(x, condition)
        read = self.mlp(normed)
        return x + (read if gate is None else read * gate), seen
