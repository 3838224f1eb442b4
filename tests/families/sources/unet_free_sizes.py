"""A U-Net whose height and width are free, and which sees a picture that follows them."""

import torch
from torch import nn
from torch.nn import functional as F

from fewstep.export import Condition, ScheduleSpec, Size, Spec

NAME = "U-Net with free height and width"
PLAN = "dpmpp_2m:2@trailing"


class Block(nn.Module):
    def __init__(self, given, made):
        super().__init__()
        self.norm, self.conv = nn.GroupNorm(4, given), nn.Conv2d(given, made, 3, padding=1)
        self.time, self.skip = nn.Linear(16, made), nn.Conv2d(given, made, 1)

    def forward(self, x, time):
        return self.skip(x) + self.conv(F.silu(self.norm(x))) + self.time(time)[:, :, None, None]


class Attention(nn.Module):
    def __init__(self, channels):
        super().__init__()
        self.qkv, self.out = nn.Conv2d(channels, 3 * channels, 1), nn.Conv2d(channels, channels, 1)

    def forward(self, x):
        b, c, h, w = x.shape
        q, k, v = self.qkv(x).reshape(b, 3, 2, c // 2, h * w).transpose(-1, -2).unbind(1)
        return x + self.out(F.scaled_dot_product_attention(q, k, v).transpose(-1, -2).reshape(b, c, h, w))


class UNet(nn.Module):
    def __init__(self):
        super().__init__()
        self.time, self.first, self.picture = nn.Linear(1, 16), nn.Conv2d(1, 16, 3, padding=1), nn.Conv2d(1, 16, 1)
        self.wide, self.down = Block(16, 16), nn.Conv2d(16, 32, 3, stride=2, padding=1)
        self.inner, self.attention = Block(32, 32), Attention(32)
        self.up, self.last = Block(48, 16), nn.Conv2d(16, 1, 3, padding=1)

    def forward(self, x, time, picture):
        time = F.silu(self.time(time[:, None] / 1000))
        wide = self.wide(self.first(x) + self.picture(picture), time)
        inner = F.interpolate(self.attention(self.inner(self.down(wide), time)), scale_factor=2.0)
        return self.last(self.up(torch.cat([inner, wide], 1), time))


def make():
    torch.manual_seed(0)
    picture = Condition("picture", "picture", (1, 8, 12), "float32", typical=(-1, 1), follows={1: "height", 2: "width"})
    sizes = (Size("height", axis=1, low=4, high=32, multiple=2), Size("width", axis=2, low=4, high=32, multiple=2))
    return UNet(), Spec("pictures", (1, 8, 12), (picture,), "v", ScheduleSpec("cosine"), sizes=sizes)
