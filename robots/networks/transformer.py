"""The transformer over a sequence of actions: Diffusion Policy (Chi et al. 2023, arXiv 2303.04137).

Weight names are those of the authors' `TransformerForDiffusion`. Attention is written out, so that everything that
depends only on the observations, including keys and values, moves from the loop into the prologue.
"""

from typing import Literal

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from fewstep.robots.networks.unet1d import TimeFeatures

WIDER = 4  # width of the feed-forward layers, relative to the tokens


class Attention(nn.Module):
    """Multi-head attention. The projections of queries, keys and values are stored in one weight, as in torch's
    MultiheadAttention."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.in_proj_weight = nn.Parameter(torch.empty(3 * width, width).normal_(std=0.02))
        self.in_proj_bias = nn.Parameter(torch.zeros(3 * width))
        self.out_proj = nn.Linear(width, width)

    def forward(self, tokens: Tensor, seen: Tensor, mask: Tensor | None) -> Tensor:
        """Attend from `tokens` [B, T, width] to `seen` [B, S, width]; `mask` [T, S] is added to the scores."""
        weights, biases = self.in_proj_weight.chunk(3), self.in_proj_bias.chunk(3)
        q, k, v = (
            F.linear(each, weight, bias).unflatten(2, (self.heads, -1)).transpose(1, 2)
            for each, weight, bias in zip((tokens, seen, seen), weights, biases, strict=True)
        )
        return self.out_proj(F.scaled_dot_product_attention(q, k, v, mask).transpose(1, 2).flatten(2))


class Layer(nn.Module):
    """Self-attention, attention to a memory if `reads_memory`, and feed-forward, each after its LayerNorm
    (pre-norm)."""

    def __init__(self, width: int, heads: int, *, reads_memory: bool) -> None:
        super().__init__()
        self.self_attn = Attention(width, heads)
        self.norm1 = nn.LayerNorm(width)
        if reads_memory:
            self.multihead_attn = Attention(width, heads)
            self.norm3 = nn.LayerNorm(width)
        self.norm2 = nn.LayerNorm(width)
        self.linear1, self.linear2 = nn.Linear(width, WIDER * width), nn.Linear(WIDER * width, width)
        self.reads_memory = reads_memory

    def forward(
        self, x: Tensor, mask: Tensor | None, memory: Tensor | None = None, memory_mask: Tensor | None = None
    ) -> Tensor:
        normed = self.norm1(x)
        x = x + self.self_attn(normed, normed, mask)
        if memory is not None:
            x = x + self.multihead_attn(self.norm2(x), memory, memory_mask)
        last = self.norm3 if self.reads_memory else self.norm2
        return x + self.linear2(F.gelu(self.linear1(last(x))))


class Layers(nn.Module):
    """A sequence of `count` transformer layers of equal width."""

    def __init__(self, count: int, width: int, heads: int, *, reads_memory: bool = False) -> None:
        super().__init__()
        self.layers = nn.ModuleList([Layer(width, heads, reads_memory=reads_memory) for _ in range(count)])

    def forward(
        self, x: Tensor, mask: Tensor | None = None, memory: Tensor | None = None, memory_mask: Tensor | None = None
    ) -> Tensor:
        for layer in self.layers:
            x = layer(x, mask, memory, memory_mask)
        return x


class PolicyTransformer(nn.Module):
    """The denoiser of noisy actions [B, horizon, actions], timesteps [B] and observations [B, observations, n].

    Args:
        actions: elements of one action.
        horizon: actions of a sequence.
        observations: number of observations; 0 if they are part of x instead of a condition.
        observation: elements of one observation.
        layers, heads, width: sizes of the transformer.
        condition_layers: layers of the observation encoder; 0 for two linear layers.
        is_causal: an action attends to earlier actions, and to observations up to its own time.
        time: the timestep is the first token of the "condition", or the first token of the "sequence" of actions. With
            "sequence", there is no condition, so `observations` is 0.
    """

    mask: Tensor | None
    memory_mask: Tensor | None

    def __init__(
        self,
        actions: int,
        horizon: int,
        observations: int,
        observation: int,
        *,
        layers: int = 12,
        heads: int = 12,
        width: int = 768,
        condition_layers: int = 0,
        is_causal: bool = False,
        time: Literal["condition", "sequence"] = "condition",
    ) -> None:
        super().__init__()
        self.time, in_sequence = time, time == "sequence"
        tokens, seen = horizon + in_sequence, 1 + observations
        self.input_emb = nn.Linear(actions, width)
        self.pos_emb = nn.Parameter(torch.zeros(1, tokens, width))
        self.time_emb = TimeFeatures(width)
        if observations:
            self.cond_obs_emb = nn.Linear(observation, width)
        if in_sequence:
            self.encoder: nn.Module = Layers(layers, width, heads)
        else:
            self.cond_pos_emb = nn.Parameter(torch.zeros(1, seen, width))
            simple = nn.Sequential(nn.Linear(width, WIDER * width), nn.Mish(), nn.Linear(WIDER * width, width))
            self.encoder = Layers(condition_layers, width, heads) if condition_layers else simple
            self.decoder = Layers(layers, width, heads, reads_memory=True)
        at = torch.arange(max(tokens, seen))
        self.register_buffer("mask", _additive_mask(at[:tokens, None] >= at[None, :tokens]) if is_causal else None)
        sees = at[:tokens, None] >= at[None, :seen] - 1  # the first token of the condition is the timestep
        self.register_buffer("memory_mask", _additive_mask(sees) if is_causal and observations else None)
        self.ln_f = nn.LayerNorm(width)
        self.head = nn.Linear(width, actions)

    def forward(self, x: Tensor, time: Tensor, observations: Tensor | None = None) -> Tensor:
        known, actions = self.time_emb(time)[:, None], self.input_emb(x)
        if self.time == "sequence":
            h = self.encoder(torch.cat([known, actions], dim=1) + self.pos_emb, self.mask)[:, 1:]
        else:
            if observations is not None:
                known = torch.cat([known, self.cond_obs_emb(observations)], dim=1)
            memory = self.encoder(known + self.cond_pos_emb)
            h = self.decoder(actions + self.pos_emb, self.mask, memory, self.memory_mask)
        return self.head(self.ln_f(h))


def _additive_mask(sees: Tensor) -> Tensor:
    """Return a mask to add to attention scores: 0 where a token may attend to another (`sees` is true), and minus
    infinity elsewhere."""
    return torch.zeros(sees.shape).masked_fill(~sees, float("-inf"))
