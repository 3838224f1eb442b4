"""ResNet-18 and 34 (He et al. 2015, arXiv 1512.03385) without their classifier, with torchvision's weight names."""

from collections.abc import Callable
from typing import Literal

from torch import Tensor, nn
from torch.nn import functional as F

Depth = Literal["resnet18", "resnet34"]
BLOCKS: dict[Depth, tuple[int, int, int, int]] = {"resnet18": (2, 2, 2, 2), "resnet34": (3, 4, 6, 3)}
WIDTHS = (64, 128, 256, 512)
STRIDE = 32  # pixels of the image per pixel of the feature map
CHANNELS_A_GROUP = 16  # if GroupNorm replaces BatchNorm

Norm = Callable[[int], nn.Module]


def group_norm(channels: int) -> nn.Module:
    """Return the GroupNorm that policies use instead of BatchNorm, whose statistics do not fit averaged weights."""
    return nn.GroupNorm(channels // CHANNELS_A_GROUP, channels)


class BasicBlock(nn.Module):
    """Two 3x3 convolutions with a residual connection, which is projected if the size changes."""

    def __init__(self, channels_in: int, channels_out: int, stride: int, norm: Norm) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(channels_in, channels_out, 3, stride, padding=1, bias=False)
        self.bn1 = norm(channels_out)
        self.conv2 = nn.Conv2d(channels_out, channels_out, 3, padding=1, bias=False)
        self.bn2 = norm(channels_out)
        changes = stride > 1 or channels_in != channels_out
        project = nn.Sequential(nn.Conv2d(channels_in, channels_out, 1, stride, bias=False), norm(channels_out))
        self.downsample = project if changes else None

    def forward(self, x: Tensor) -> Tensor:
        h = self.bn2(self.conv2(F.relu(self.bn1(self.conv1(x)))))
        return F.relu(h + (x if self.downsample is None else self.downsample(x)))


def make_layers(depth: Depth = "resnet18", norm: Norm = nn.BatchNorm2d) -> dict[str, nn.Module]:
    """Return the layers of a ResNet in order, by torchvision's names. They map images [B, 3, H, W] to features [B, 512,
    H/32, W/32]."""
    made: dict[str, nn.Module] = {
        "conv1": nn.Conv2d(3, WIDTHS[0], 7, stride=2, padding=3, bias=False),
        "bn1": norm(WIDTHS[0]),
        "relu": nn.ReLU(),
        "maxpool": nn.MaxPool2d(3, stride=2, padding=1),
    }
    channels = WIDTHS[0]
    for level, (width, blocks) in enumerate(zip(WIDTHS, BLOCKS[depth], strict=True)):
        strides = [1 if level == 0 else 2, *[1] * (blocks - 1)]
        made[f"layer{level + 1}"] = nn.Sequential(
            *(BasicBlock(channels if i == 0 else width, width, stride, norm) for i, stride in enumerate(strides))
        )
        channels = width
    return made


class ResNet(nn.Module):
    """The whole encoder, from images [B, 3, H, W] to features [B, 512], averaged over the image."""

    def __init__(self, depth: Depth = "resnet18", norm: Norm = nn.BatchNorm2d) -> None:
        super().__init__()
        for name, layer in make_layers(depth, norm).items():
            self.add_module(name, layer)

    def forward(self, x: Tensor) -> Tensor:
        for layer in self.children():
            x = layer(x)
        return x.mean(dim=(2, 3))
