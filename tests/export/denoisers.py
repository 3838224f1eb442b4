"""Modules that can be exported, modules that cannot, and one of them as a source of `export`."""

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from fewstep.export.sources.torch_module import TorchSource
from fewstep.export.spec import Spec, TracedDenoiser
from fewstep.graph.cuts.prologue import PreparedDenoiser
from fewstep.models.blocks import ResidualBlock, SelfAttention, time_features, upsample
from fewstep.models.fashion_mnist.unet import CLASSES, IMAGE_SHAPE
from fewstep.plans.spec import ScheduleSpec
from fewstep.runtime.bundle.manifest import Condition

X_SHAPE = (2, 4, 4)


@dataclass(frozen=True)
class Exported:
    """A denoiser in all its forms, which the fixture `unet` returns."""

    source: TorchSource
    traced: TracedDenoiser
    prepared: PreparedDenoiser


class Tiny(nn.Module):
    """conv(x) scaled by the time: a single convolution exports in a second."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(2, 2, 3, padding=1)
        self.scale = nn.Linear(1, 2)

    def forward(self, x: Tensor, time: Tensor) -> Tensor:
        h: Tensor = self.conv(x) * self.scale(time[:, None] / 1000)[:, :, None, None]
        return h


class Attending(Tiny):
    """Attention of one head over the pixels, [B, N, C]."""

    def forward(self, x: Tensor, time: Tensor) -> Tensor:
        tokens = super().forward(x, time).flatten(2).transpose(1, 2)
        attended = nn.functional.scaled_dot_product_attention(tokens, tokens, tokens)
        return attended.transpose(1, 2).reshape(x.shape)


class SmallUNet(nn.Module):
    """The shipped U-Net with one resizing and 16 channels: each kind of its layers, in a third of its operations."""

    def __init__(self) -> None:
        super().__init__()
        self.time_mlp = nn.Sequential(nn.Linear(32, 32), nn.SiLU(), nn.Linear(32, 32))
        self.label_embedding = nn.Embedding(len(CLASSES) + 1, 32)
        self.conv_in, self.conv_out = nn.Conv2d(*IMAGE_SHAPE[:1], 16, 3, padding=1), nn.Conv2d(16, 1, 3, padding=1)
        self.to14, self.from14 = nn.Conv2d(16, 16, 3, stride=2, padding=1), nn.Conv2d(16, 16, 3, padding=1)
        self.down28, self.middle, self.up28 = (ResidualBlock(given, 16, 32) for given in (16, 16, 32))
        self.attention, self.norm_out = SelfAttention(16), nn.GroupNorm(8, 16)

    def forward(self, x: Tensor, time: Tensor, label: Tensor) -> Tensor:
        embedding = nn.functional.silu(self.time_mlp(time_features(time, 32)) + self.label_embedding(label))
        h28 = self.down28(self.conv_in(x), embedding)
        h = self.from14(upsample(self.middle(self.attention(self.to14(h28)), embedding)))
        h = self.up28(torch.cat([h, h28], dim=1), embedding)
        made: Tensor = self.conv_out(nn.functional.silu(self.norm_out(h)))
        return made


class Pair(Tiny):
    def forward(self, x: Tensor, time: Tensor) -> Tensor:
        return x, time  # type: ignore[return-value]


class WrongShape(Tiny):
    def forward(self, x: Tensor, time: Tensor) -> Tensor:
        return super().forward(x, time)[:, :1]


class LearnedVariance(Tiny):
    def forward(self, x: Tensor, time: Tensor) -> Tensor:
        h = super().forward(x, time)
        return torch.cat([h, h.tanh()], dim=1)


class Double(Tiny):
    def forward(self, x: Tensor, time: Tensor) -> Tensor:
        return super().forward(x, time).double()


class DoubleInside(Tiny):
    """A convolution in float64, which onnxruntime has no kernel for."""

    def forward(self, x: Tensor, time: Tensor) -> Tensor:
        return nn.functional.conv2d(x.double(), self.conv.weight.double(), padding=1).float()


class Mixing(Tiny):
    """Each sample's output depends on its whole batch."""

    def forward(self, x: Tensor, time: Tensor) -> Tensor:
        h = super().forward(x, time)
        return h - h.mean(0, keepdim=True)


class Labelled(Tiny):
    """A network of two labels."""

    def __init__(self) -> None:
        super().__init__()
        self.label = nn.Embedding(2, 2)

    def forward(self, x: Tensor, time: Tensor, label: Tensor) -> Tensor:  # type: ignore[override]
        return super().forward(x, time) + self.label(label)[:, :, None, None]


class Raising(Tiny):
    def forward(self, x: Tensor, time: Tensor) -> Tensor:
        raise ValueError("no such layer\nand more")


def source(module: nn.Module, *conditions: Condition) -> TorchSource:
    torch.manual_seed(0)
    spec = Spec("tiny", X_SHAPE, conditions, "epsilon", ScheduleSpec("linear"))
    return TorchSource(module.requires_grad_(False), spec, "tiny", "0" * 64)


def make() -> tuple[nn.Module, Spec]:
    """This file as a source: FILE.py:make."""
    torch.manual_seed(0)
    made = source(Tiny())
    return made.module, made.spec
