"""A small U-Net in third-party style, for files of torch's two exporters: attention by einsum, Split, average pooling,
nearest resizing, norms over groups, sizes read from x and from a condition.
"""

import json
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

SIZE, CHANNELS, LABELS = 8, 16, 10
NAMES = ["sample", "sigma", "label"]
SPEC: dict[str, Any] = {
    "name": "stranger",
    "x_shape": [3, SIZE, SIZE],
    "prediction": "sample",
    "schedule": {"kind": "exploding", "sigma_min": 0.01, "sigma_max": 80.0},
    "conditions": [{"name": "class", "input": "label", "low": 0, "high": 9}],
    **{"x": "sample", "time": "sigma", "output": "out"},
}


class Block(nn.Module):
    def __init__(self, channels_in: int, channels: int) -> None:
        super().__init__()
        self.norm1, self.norm2 = nn.GroupNorm(4, channels_in), nn.GroupNorm(4, channels)
        self.conv1 = nn.Conv2d(channels_in, channels, 3, padding=1)
        self.conv2 = nn.Conv2d(channels, channels, 3, padding=1)
        self.modulation = nn.Linear(2 * CHANNELS, 2 * channels)
        self.shortcut = nn.Conv2d(channels_in, channels, 1)

    def forward(self, x: Tensor, embedding: Tensor, label: Tensor) -> Tensor:
        h = self.conv1(F.silu(self.norm1(x)))
        scale, shift = self.modulation(embedding).reshape(label.shape[0], -1, 1, 1).chunk(2, dim=1)
        result: Tensor = self.shortcut(x) + self.conv2(F.silu(self.norm2(h) * (1 + scale) + shift))
        return result


class Network(nn.Module):
    """The sample of x [B, 3, 8, 8] at sigma [B] for labels [B]."""

    def __init__(self) -> None:
        super().__init__()
        width = 2 * CHANNELS
        self.token = nn.Parameter(torch.randn(1, 1, width))
        self.times, self.labels = nn.Linear(1, width), nn.Embedding(LABELS, width)
        self.mix = nn.Linear(width, width)
        self.first, self.last = nn.Conv2d(3, CHANNELS, 3, padding=1), nn.Conv2d(CHANNELS, 3, 3, padding=1)
        self.down, self.up = Block(CHANNELS, width), Block(width + CHANNELS, CHANNELS)
        self.qkv, self.out = nn.Conv1d(width, 3 * width, 1), nn.Conv1d(width, width, 1)

    def forward(self, x: Tensor, sigma: Tensor, label: Tensor) -> Tensor:
        timed = self.times(sigma.log()[:, None]) + self.labels(label)
        both = torch.cat([timed[:, None], self.token.expand(x.shape[0], -1, -1)], dim=1)
        embedding = F.silu(self.mix(both).mean(1))
        fine = self.first(x / (1 + sigma.square()).sqrt()[:, None, None, None])
        h = self.down(F.avg_pool2d(fine, 2), embedding, label)
        h = h + self.attention(h)
        h = self.up(torch.cat([F.interpolate(h, scale_factor=2.0), fine], dim=1), embedding, label)
        result: Tensor = self.last(F.silu(h))
        return result

    def attention(self, x: Tensor) -> Tensor:
        batch, channels, height, width = x.shape
        heads = self.qkv(x.reshape(batch, channels, -1)).reshape(batch * 2, 3 * channels // 2, -1)
        q, k, v = heads.split(channels // 2, dim=1)
        weights = torch.einsum("bct,bcs->bts", q, k).softmax(dim=-1)
        attended = torch.einsum("bts,bcs->bct", weights, v).reshape(batch, channels, -1)
        result: Tensor = self.out(attended).reshape(batch, channels, height, width)
        return result


def written(folder: Path, opset: int, is_new: bool) -> tuple[str, Path]:
    """Write the file of an exporter, torch's previous one or the one with dynamo, and its spec."""
    torch.manual_seed(0)
    example = (torch.randn(2, 3, SIZE, SIZE), torch.rand(2) + 0.5, torch.tensor([1, 2]))
    form: dict[str, Any] = {"dynamic_axes": {name: {0: f"n_{name}"} for name in (*NAMES, "out")}}
    if is_new:
        form = {"dynamic_shapes": ({0: (batch := torch.export.Dim("batch"))}, {0: batch}, {0: batch})}
    names = {"input_names": NAMES, "output_names": ["out"]}
    file = folder / "stranger.onnx"
    torch.onnx.export(Network().eval(), example, file, opset_version=opset, dynamo=is_new, **names, **form)
    (folder / "spec.json").write_text(json.dumps(SPEC))
    return str(file), folder / "spec.json"
