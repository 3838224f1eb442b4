"""A policy whose actions are tokens: a point moves to a goal around an obstacle on one of three routes, and its 16
positions are 16 x 2 tokens of 128 bins. `fewstep export zoo/action_tokens.py:make`.

The task is that of `zoo/policy_unet1d.py` with discrete positions (Discrete Diffusion VLA, arXiv 2508.20072). The
network is a masked transformer over tokens in codebooks (MaskGIT: Chang et al. 2022, arXiv 2202.04200). Each position
has one id of each codebook. Their embeddings are added, as in OmniVoice, and one head returns the logits of all.
"""

import math

import torch
from denoising import Batch, Data, Draw, Trained
from policy_unet1d import HIGH, HORIZON, LOW, demonstrations
from torch import Tensor, nn
from torch.nn import functional as F

from fewstep.export import Condition, ScheduleSpec, Spec, Vocabulary
from fewstep.models.training import Loss, Recipe

BINS, BOOKS = 128, 2
REACH = 1.2  # range of the bins, from -REACH to REACH
SPREAD = 0.1  # initial scale of embeddings, so that ids, places and conditions have equal weight
WIDTH, BLOCKS, HEADS = 256, 2, 4
SPEC = Spec(
    "action_tokens",
    (BOOKS, HORIZON),
    (Condition("observation", "condition", shape=(1, len(LOW)), dtype="float32", typical=(LOW, HIGH)),),
    "logits",
    ScheduleSpec("flow"),
    vocabulary=Vocabulary(BINS, BINS),
)
RECIPE = Recipe(steps=4_200, batch=64, rate=1e-3, seed=0)


def tokens(positions: Tensor) -> Tensor:
    """Return positions [B, 16, 2] as the indices [B, 2, 16] of their bins."""
    return ((positions / REACH + 1) / 2 * BINS).long().clamp(0, BINS - 1).transpose(1, 2)


def positions(ids: Tensor) -> Tensor:
    """Return the centres [B, 16, 2] of bins [B, 2, 16]."""
    return ((ids.transpose(1, 2) + 0.5) / BINS * 2 - 1) * REACH


def drawn(count: int, generator: torch.Generator) -> Batch:
    """Return the tokens of random demonstrations, and their observations [B, 1, 6]."""
    made = demonstrations(count, generator)
    return Batch(tokens(made.x0), made.conditions)


class MaskedBlock(nn.Module):
    """Attention over all positions and two linear layers, each after a norm and with a residual connection."""

    def __init__(self) -> None:
        super().__init__()
        self.norm1, self.norm2 = nn.LayerNorm(WIDTH), nn.LayerNorm(WIDTH)
        self.qkv, self.out = nn.Linear(WIDTH, 3 * WIDTH), nn.Linear(WIDTH, WIDTH)
        self.up, self.down = nn.Linear(WIDTH, 3 * WIDTH), nn.Linear(3 * WIDTH, WIDTH)

    def forward(self, x: Tensor) -> Tensor:
        q, k, v = self.qkv(self.norm1(x)).unflatten(2, (3, HEADS, -1)).permute(2, 0, 3, 1, 4)
        x = x + self.out(F.scaled_dot_product_attention(q, k, v).transpose(1, 2).flatten(2))
        return x + self.down(F.gelu(self.up(self.norm2(x)), approximate="tanh"))


class Network(nn.Module):
    """`forward(ids [B, 2, 16], time [B], condition [B, 1, 6])` -> logits [B, 2, 16, 128]. An open position has the id
    after the last one. The time is not used, since the number of open positions determines it."""

    def __init__(self) -> None:
        super().__init__()
        self.seen = nn.Sequential(nn.Flatten(), nn.Linear(len(LOW), WIDTH), nn.SiLU(), nn.Linear(WIDTH, WIDTH))
        self.tokens = nn.ModuleList(nn.Embedding(BINS + 1, WIDTH) for _ in range(BOOKS))
        self.places = nn.Parameter(SPREAD * torch.randn(HORIZON, WIDTH))
        self.blocks = nn.ModuleList(MaskedBlock() for _ in range(BLOCKS))
        self.norm, self.head = nn.LayerNorm(WIDTH), nn.Linear(WIDTH, BOOKS * BINS)
        for table in self.tokens:
            nn.init.normal_(table.weight, std=SPREAD)

    def forward(self, ids: Tensor, time: Tensor, condition: Tensor) -> Tensor:
        x = self.places + self.seen(condition)[:, None]
        for number, table in enumerate(self.tokens):
            x = x + table(ids[:, number])
        for block in self.blocks:
            x = block(x)
        return self.head(self.norm(x)).unflatten(2, (BOOKS, BINS)).transpose(1, 2)


def opened(ids: Tensor, generator: torch.Generator) -> Tensor:
    """Return which tokens [B, C, T] of a batch are open: a share cos(pi/2 u) for each sample, with u uniform in [0, 1],
    and at least one token."""
    share = torch.cos(math.pi / 2 * torch.rand(len(ids), generator=generator))
    chances = torch.rand(ids.shape, generator=generator)
    return (chances < share[:, None, None]) | (chances == chances.amin((1, 2), keepdim=True))


def loss(draw: Draw, count: int) -> Loss:
    """Return the cross entropy of the open tokens of a batch, in nats per token."""

    def entropy(network: nn.Module, generator: torch.Generator) -> Tensor:
        batch = draw(count, generator)
        ids, unknown = batch.x0, opened(batch.x0, generator)
        logits = network(ids.masked_fill(unknown, BINS), torch.zeros(len(ids)), *batch.conditions)
        return F.cross_entropy(logits[unknown].float(), ids[unknown])

    return entropy


DATA = Data("demonstrations made by code, as many as are asked for", lambda folder, split: drawn)
make = Trained(__file__, Network, SPEC)
