"""Attention over the tokens of a text with a mask, as a source of `export`. If the mask leaves no token, its prediction
is 0.
"""

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from fewstep.export import Condition, ScheduleSpec, Spec

TOKENS, WIDTH = 24, 32


class Network(nn.Module):
    def __init__(self, is_float: bool) -> None:
        super().__init__()
        self.is_float = is_float
        self.first, self.time = nn.Linear(4, WIDTH), nn.Linear(1, WIDTH)
        self.q, self.out = (nn.Linear(WIDTH, WIDTH, bias=False) for _ in range(2))
        self.k, self.v, self.last = (nn.Linear(*each, bias=False) for each in ((8, WIDTH), (8, WIDTH), (WIDTH, 4)))

    def forward(self, x: Tensor, time: Tensor, text: Tensor, mask: Tensor) -> Tensor:
        q = self.q(F.silu(self.first(x) + self.time(time[:, None] / 1000)[:, None]))
        q, k, v = (each.unflatten(-1, (2, 16)).transpose(1, 2) for each in (q, self.k(text), self.v(text)))
        keeps = mask.bool()[:, None, None]
        keeps = torch.where(keeps, 0.0, -torch.inf) if self.is_float else keeps
        read = F.scaled_dot_product_attention(q, k, v, attn_mask=keeps).transpose(1, 2).flatten(2)
        made: Tensor = self.last(F.silu(self.out(read)))
        return made


def of(is_float: bool) -> tuple[nn.Module, Spec]:
    torch.manual_seed(0)
    text = Condition("text", "text", (TOKENS, 8), "float32", null=0, typical=(-1, 1))
    mask = Condition("mask", "mask", (TOKENS,), null=0, low=0, high=1)
    return Network(is_float), Spec("masked", (12, 4), (text, mask), "epsilon", ScheduleSpec("linear"))


def boolean() -> tuple[nn.Module, Spec]:
    return of(is_float=False)


def infinite() -> tuple[nn.Module, Spec]:
    return of(is_float=True)
