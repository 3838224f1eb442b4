"""Sound by flow matching with infilling (Audiobox, Vyas et al. 2023, after Voicebox, Le et al. 2023).

A transformer over frames takes the known frames besides x, attends to a text, and connects early layers to late ones.
"""

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from fewstep.export import Condition, ScheduleSpec, Spec

NAME = "Audiobox (1-D flow with infilling)"
PLAN = "heun:2@trailing"
GUIDANCE = 2.0

FEATURES, FRAMES, WORDS, WIDTH, HEADS = 16, 24, 6, 32, 2


def split(h: Tensor) -> Tensor:
    return h.unflatten(2, (HEADS, -1)).transpose(1, 2)


class Layer(nn.Module):
    """Attention to all frames, decreasing with distance (ALiBi, in both directions), then to the words."""

    def __init__(self) -> None:
        super().__init__()
        self.qkv, self.out = nn.Linear(WIDTH, 3 * WIDTH), nn.Linear(WIDTH, WIDTH)
        self.query, self.words = nn.Linear(WIDTH, WIDTH), nn.Linear(WIDTH, 2 * WIDTH)
        self.heard = nn.Linear(WIDTH, WIDTH)
        self.wide, self.narrow = nn.Linear(WIDTH, 4 * WIDTH), nn.Linear(4 * WIDTH, WIDTH)
        away = (torch.arange(FRAMES + 1)[:, None] - torch.arange(FRAMES + 1)).abs().float()
        away[0], away[:, 0] = 0, 0  # the time is one token more, near to all
        slopes = 2 ** (-8 / HEADS * torch.arange(1.0, HEADS + 1))  # as Press et al. 2022 (arXiv 2108.12409) have them
        self.register_buffer("bias", -away * slopes[:, None, None])

    def forward(self, h: Tensor, words: Tensor) -> Tensor:
        q, k, v = (split(part) for part in self.qkv(F.layer_norm(h, (WIDTH,))).chunk(3, dim=2))
        seen = (q @ k.transpose(2, 3) * (WIDTH // HEADS) ** -0.5 + self.bias).softmax(3) @ v
        h = h + self.out(seen.transpose(1, 2).flatten(2))
        k, v = (split(part) for part in self.words(words).chunk(2, dim=2))
        q = split(self.query(F.layer_norm(h, (WIDTH,))))
        heard = (q @ k.transpose(2, 3) * (WIDTH // HEADS) ** -0.5).softmax(3) @ v
        h = h + self.heard(heard.transpose(1, 2).flatten(2))
        return h + self.narrow(F.gelu(self.wide(F.layer_norm(h, (WIDTH,)))))


class Sound(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.joined, self.last = nn.Linear(2 * FEATURES + 1, WIDTH), nn.Linear(WIDTH, FEATURES)
        self.place = nn.Conv1d(WIDTH, WIDTH, 7, padding=3, groups=WIDTH)
        self.time, self.text = nn.Linear(16, WIDTH), nn.Linear(8, WIDTH)
        self.layers = nn.ModuleList([Layer() for _ in range(4)])
        self.joins = nn.ModuleList([nn.Linear(2 * WIDTH, WIDTH) for _ in range(2)])

    def forward(self, x: Tensor, time: Tensor, context: Tensor, kept: Tensor, text: Tensor) -> Tensor:
        h = self.joined(torch.cat([x, context * kept, kept], dim=1).transpose(1, 2))
        h = h + F.gelu(self.place(h.transpose(1, 2))).transpose(1, 2)
        angles = time[:, None] * torch.exp(torch.linspace(0.0, 6.0, 8))
        at = self.time(torch.cat([angles.sin(), angles.cos()], dim=1))[:, None]
        h, words = torch.cat([at, h], dim=1), self.text(text)
        first = self.layers[0](h, words)
        second = self.layers[1](first, words)
        h = self.layers[2](self.joins[0](torch.cat([second, second], dim=2)), words)
        h = self.layers[3](self.joins[1](torch.cat([h, first], dim=2)), words)
        return self.last(F.layer_norm(h[:, 1:], (WIDTH,))).transpose(1, 2)


def make():
    torch.manual_seed(0)
    context = Condition("context", "context", (FEATURES, FRAMES), "float32", null=0.0)
    kept = Condition("kept", "kept", (1, FRAMES), "float32", null=0.0, low=0.0, high=1.0)
    text = Condition("text", "text", (WORDS, 8), "float32", null=0.0)
    schedule = ScheduleSpec("flow", timesteps=1)
    return Sound(), Spec("audiobox", (FEATURES, FRAMES), (context, kept, text), "flow", schedule)
