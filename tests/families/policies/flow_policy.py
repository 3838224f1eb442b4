"""A flow-matching policy in the style of pi0: an action expert reads the keys and values that a larger transformer made
of the observation, once; it gets t in [0, 1], 1 being noise, and predicts the flow of actions [actions, horizon]."""

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from fewstep.export import Affine, Condition, ScheduleSpec, Spec

NAME = "Flow-matching policy (FILE.py:FUNCTION)"
PLAN = "euler:2@trailing"

ACTIONS, HORIZON, TOKENS, WIDTH, HEADS = 4, 8, 64, 48, 2


def split(x: Tensor) -> Tensor:
    return x.unflatten(2, (HEADS, -1)).transpose(1, 2)


class Prefix(nn.Module):
    """Map tokens of the observation, which attend to each other, to the keys and values of one layer."""

    def __init__(self) -> None:
        super().__init__()
        self.qkv = nn.Linear(WIDTH, 3 * WIDTH)
        self.wide, self.narrow = nn.Linear(WIDTH, 4 * WIDTH), nn.Linear(4 * WIDTH, WIDTH)

    def forward(self, h: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        q, k, v = (split(part) for part in self.qkv(F.layer_norm(h, (WIDTH,))).chunk(3, dim=2))
        h = h + F.scaled_dot_product_attention(q, k, v).transpose(1, 2).flatten(2)
        return h + self.narrow(F.gelu(self.wide(F.layer_norm(h, (WIDTH,))))), k, v


class Expert(nn.Module):
    """Tokens of actions, which attend to the observation's and to each other."""

    def __init__(self) -> None:
        super().__init__()
        self.qkv, self.out = nn.Linear(WIDTH, 3 * WIDTH), nn.Linear(WIDTH, WIDTH)
        self.wide, self.narrow = nn.Linear(WIDTH, 2 * WIDTH), nn.Linear(2 * WIDTH, WIDTH)

    def forward(self, h: Tensor, keys: Tensor, values: Tensor) -> Tensor:
        q, k, v = (split(part) for part in self.qkv(F.layer_norm(h, (WIDTH,))).chunk(3, dim=2))
        seen = F.scaled_dot_product_attention(q, torch.cat([keys, k], dim=2), torch.cat([values, v], dim=2))
        h = h + self.out(seen.transpose(1, 2).flatten(2))
        return h + self.narrow(F.gelu(self.wide(F.layer_norm(h, (WIDTH,)))))


class Policy(nn.Module):
    def __init__(self, layers: int = 2) -> None:
        super().__init__()
        self.patches = nn.Conv2d(3, WIDTH, 4, stride=4)
        self.prefix = nn.ModuleList([Prefix() for _ in range(layers)])
        self.expert = nn.ModuleList([Expert() for _ in range(layers)])
        self.action, self.time = nn.Linear(ACTIONS, WIDTH), nn.Linear(16, WIDTH)
        self.joined, self.last = nn.Linear(2 * WIDTH, WIDTH), nn.Linear(WIDTH, ACTIONS)

    def forward(self, x: Tensor, time: Tensor, camera: Tensor) -> Tensor:
        tokens = self.patches(camera.float() / 127.5 - 1).flatten(2).transpose(1, 2)
        angles = time[:, None] * torch.exp(torch.linspace(0.0, 6.0, 8))
        t = self.time(torch.cat([angles.sin(), angles.cos()], dim=1))[:, None].expand(-1, HORIZON, -1)
        h = self.joined(torch.cat([self.action(x.transpose(1, 2)), t], dim=2))
        for prefix, expert in zip(self.prefix, self.expert, strict=True):
            tokens, keys, values = prefix(tokens)
            h = expert(h, keys, values)
        return self.last(h).transpose(1, 2)


def make():
    torch.manual_seed(0)
    camera = Condition("camera", "camera", (3, 32, 32), "uint8", low=0, high=255)
    units = Affine((0.5, 0.5, 0.5, 0.04), (0.0, 0.0, 0.0, 0.04), axis=0)
    schedule = ScheduleSpec("flow", timesteps=1)
    return Policy(), Spec("flow_policy", (ACTIONS, HORIZON), (camera,), "flow", schedule, units=units)
