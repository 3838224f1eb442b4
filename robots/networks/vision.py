"""Image processing of policies before and after the backbone: resize, crop, spatial softmax."""

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

Size = tuple[int, int]  # height, width


class Resize(nn.Module):
    """Bilinear resize to a fixed size, as two matrix products.

    It equals torch's `interpolate`, with or without antialiasing, which is linear and separable. Not every engine
    supports ONNX's Resize, the operation that `interpolate` is exported as.
    """

    rows: Tensor
    columns: Tensor

    def __init__(self, before: Size, after: Size, *, antialias: bool = True) -> None:
        super().__init__()
        rows, columns = (_resize_matrix(*sides, antialias) for sides in zip(before, after, strict=True))
        self.register_buffer("rows", rows, persistent=False)
        self.register_buffer("columns", columns.T.contiguous(), persistent=False)

    def forward(self, x: Tensor) -> Tensor:
        return self.rows @ x @ self.columns


def _resize_matrix(before: int, after: int, antialias: bool) -> Tensor:
    """Return the matrix [after, before] that computes new pixels from old ones."""
    unit = torch.eye(before, device="cpu")[None, None]  # on the CPU even if weights are on the meta device
    how: dict[str, Any] = {"mode": "bilinear", "antialias": antialias, "align_corners": False}
    resized: Tensor = F.interpolate(unit, (after, before), **how)[0, 0]
    return resized


class Letterbox(nn.Module):
    """Fit the whole image [..., H, W] into a fixed size: resize without distortion, then pad with zeros.

    The zeros are on the left and on top, as in SmolVLA, or on all sides if `centred`, as in openpi.
    """

    def __init__(self, before: Size, after: Size, *, centred: bool) -> None:
        super().__init__()
        ratio = max(before[1] / after[1], before[0] / after[0])
        inner = (int(before[0] / ratio), int(before[1] / ratio))
        self.resize = nn.Identity() if inner == before else Resize(before, inner, antialias=False)
        height, width = after[0] - inner[0], after[1] - inner[1]
        top, left = (height // 2, width // 2) if centred else (height, width)
        self.padding = (left, width - left, top, height - top)

    def forward(self, x: Tensor) -> Tensor:
        return F.pad(self.resize(x), self.padding)


class CentreCrop(nn.Module):
    """Crop the center of an image [..., H, W]. Raises ValueError if the crop is larger than the image."""

    def __init__(self, before: Size, after: Size) -> None:
        super().__init__()
        if after[0] > before[0] or after[1] > before[1]:
            raise ValueError(f"a crop to {list(after)} is larger than the images {list(before)}")
        self.after = after
        self.first = (round((before[0] - after[0]) / 2), round((before[1] - after[1]) / 2))

    def forward(self, x: Tensor) -> Tensor:
        (top, left), (height, width) = self.first, self.after
        return x[..., top : top + height, left : left + width]


class SpatialSoftmax(nn.Module):
    """Convert features [B, C, h, w] to keypoints [B, K, 2]: the expected position (x, y) in [-1, 1] of each of K maps.

    Finn et al. 2015, arXiv 1509.06113.
    """

    pos_grid: Tensor

    def __init__(self, channels: int, size: Size, keypoints: int) -> None:
        super().__init__()
        self.nets = nn.Conv2d(channels, keypoints, 1)
        y, x = torch.meshgrid(_positions(size[0]), _positions(size[1]), indexing="ij")
        self.register_buffer("pos_grid", torch.stack([x.flatten(), y.flatten()], dim=1))

    def forward(self, features: Tensor) -> Tensor:
        keypoints: Tensor = torch.softmax(self.nets(features).flatten(2), dim=2) @ self.pos_grid
        return keypoints


def _positions(count: int) -> Tensor:
    return torch.linspace(-1.0, 1.0, count, dtype=torch.float64).float()
