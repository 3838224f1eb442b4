"""A transformer of experts (DiT-MoE, Fei et al. 2024): every expert runs, and the gate of all but the best two is 0."""

from collections.abc import Callable

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from fewstep.export import Condition, ScheduleSpec, Spec

NAME = "DiT-MoE (experts in a dense form)"
PLAN = "euler:2@trailing"
GUIDANCE = 2.0

WIDTH, HEADS, EXPERTS, CHOSEN, SHARED = 32, 2, 4, 2, 2


class Gated(nn.Module):
    def __init__(self, wide: int) -> None:
        super().__init__()
        self.gate, self.up = nn.Linear(WIDTH, wide, bias=False), nn.Linear(WIDTH, wide, bias=False)
        self.down = nn.Linear(wide, WIDTH, bias=False)

    def forward(self, h: Tensor) -> Tensor:
        return self.down(F.silu(self.gate(h)) * self.up(h))


class Experts(nn.Module):
    """Softmax over all experts, the CHOSEN largest kept as they are, and shared experts for every token."""

    def __init__(self) -> None:
        super().__init__()
        self.route = nn.Linear(WIDTH, EXPERTS, bias=False)
        self.experts = nn.ModuleList([Gated(2 * WIDTH) for _ in range(EXPERTS)])
        self.shared = Gated(SHARED * WIDTH)

    def forward(self, h: Tensor) -> Tensor:
        scores = self.route(h).softmax(dim=2)
        least = scores.topk(CHOSEN, dim=2).values[..., -1:]
        weights = torch.where(scores >= least, scores, torch.zeros_like(scores))
        return self.shared(h) + sum(weights[..., i : i + 1] * expert(h) for i, expert in enumerate(self.experts))


class Block(nn.Module):
    """Attention, followed by `inner`."""

    def __init__(self, inner: Callable[[], nn.Module]) -> None:
        super().__init__()
        self.known = nn.Linear(WIDTH, 6 * WIDTH)
        self.qkv, self.out, self.inner = nn.Linear(WIDTH, 3 * WIDTH), nn.Linear(WIDTH, WIDTH), inner()

    def forward(self, h: Tensor, known: Tensor) -> Tensor:
        shift, scale, gate, shift2, scale2, gate2 = self.known(F.silu(known))[:, None].chunk(6, dim=2)
        q, k, v = self.qkv(F.layer_norm(h, (WIDTH,)) * (1 + scale) + shift).unflatten(2, (3, HEADS, -1)).unbind(2)
        seen = F.scaled_dot_product_attention(q.transpose(1, 2), k.transpose(1, 2), v.transpose(1, 2))
        h = h + gate * self.out(seen.transpose(1, 2).flatten(2))
        return h + gate2 * self.inner(F.layer_norm(h, (WIDTH,)) * (1 + scale2) + shift2)


class Transformer(nn.Module):
    """Two blocks. The frequencies of the time embedding reach e ** rate."""

    def __init__(self, inner: Callable[[], nn.Module] = Experts, rate: float = 6.0) -> None:
        super().__init__()
        self.rate = rate
        self.patches, self.label = nn.Conv2d(4, WIDTH, 2, stride=2), nn.Embedding(5, WIDTH)
        self.places = nn.Parameter(torch.randn(1, 16, WIDTH) / 4)
        self.time = nn.Sequential(nn.Linear(16, WIDTH), nn.SiLU(), nn.Linear(WIDTH, WIDTH))
        self.blocks = nn.ModuleList([Block(inner) for _ in range(2)])
        self.last = nn.Linear(WIDTH, 16)

    def forward(self, x: Tensor, time: Tensor, label: Tensor, route: Tensor | None = None) -> Tensor:
        """route: the channels that blocks see; None for all."""
        angles = time[:, None] * torch.exp(torch.linspace(0.0, self.rate, 8))
        known = self.time(torch.cat([angles.sin(), angles.cos()], dim=1)) + self.label(label)
        h = self.patches(x).flatten(2).transpose(1, 2) + self.places
        for block in self.blocks:
            h = block(h, known) if route is None else block(h * route, known) + h * (1 - route)
        return F.pixel_shuffle(self.last(F.layer_norm(h, (WIDTH,))).transpose(1, 2).unflatten(2, (4, 4)), 2)


def make():
    torch.manual_seed(0)
    label = Condition("class", "label", null=4, low=0, high=3)
    return Transformer(), Spec("dit_moe", (4, 8, 8), (label,), "flow", ScheduleSpec("flow", timesteps=1))
