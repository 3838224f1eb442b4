"""How published EDM networks are written, and what the exporter makes of it: attention as an autograd function, filters
tiled in forward, skips that are joined where the channels ask for it, one-hot labels through a Linear layer."""

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from fewstep.export.sources.torch_module import TorchSource
from fewstep.export.spec import Spec
from fewstep.plans.spec import ScheduleSpec
from fewstep.runtime.bundle.manifest import Condition
from tests.export.verifying import verified

CLASSES, WIDTH = 3, 8


class Attention(torch.autograd.Function):
    """Weights of attention with a backward pass of its own: only the forward pass matters here."""

    @staticmethod
    def forward(ctx, q: Tensor, k: Tensor) -> Tensor:  # type: ignore[no-untyped-def, override]
        w = torch.einsum("ncq,nck->nqk", q.float(), (k / np.sqrt(k.shape[1])).float()).softmax(dim=2).to(q.dtype)
        ctx.save_for_backward(q, k, w)
        return w


class Sampled(nn.Module):
    """A convolution behind a fixed filter, as `Conv2d` of those networks is."""

    def __init__(self, channels: int, *, up: bool) -> None:
        super().__init__()
        self.up, self.channels = up, channels
        self.conv = nn.Conv2d(channels, channels, 3, padding=1)
        line = torch.tensor([1.0, 3.0, 3.0, 1.0])
        self.register_buffer("resample_filter", line.ger(line)[None, None] / line.sum() ** 2)

    def forward(self, x: Tensor) -> Tensor:
        filter = self.resample_filter.to(x.dtype)
        if self.up:
            filter = filter.mul(4).tile([self.channels, 1, 1, 1])
            x = nn.functional.conv_transpose2d(x, filter, groups=self.channels, stride=2, padding=1)
        else:
            filter = filter.tile([self.channels, 1, 1, 1])
            x = nn.functional.conv2d(x, filter, groups=self.channels, stride=2, padding=1)
        h: Tensor = self.conv(x)
        return h


class Network(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.map_noise, self.map_label = nn.Linear(2, WIDTH), nn.Linear(CLASSES, WIDTH)
        self.first = nn.Conv2d(3, WIDTH, 3, padding=1)
        self.down, self.up = Sampled(WIDTH, up=False), Sampled(WIDTH, up=True)
        self.norm, self.qkv = nn.GroupNorm(2, WIDTH), nn.Conv2d(WIDTH, 3 * WIDTH, 1)
        self.joined = nn.Conv2d(2 * WIDTH, WIDTH, 3, padding=1)
        self.last = nn.Conv2d(WIDTH, 3, 3, padding=1)

    def forward(self, x: Tensor, noise_labels: Tensor, class_labels: Tensor | None) -> Tensor:
        emb = noise_labels.ger(torch.tensor([1.0]))
        emb = torch.cat([emb.cos(), emb.sin()], dim=1)
        emb = self.map_noise(emb.reshape(emb.shape[0], 2, -1).flip(1).reshape(*emb.shape))  # sine and cosine swapped
        if class_labels is not None:
            emb = emb + self.map_label(class_labels * np.sqrt(CLASSES))
        x = self.first(x) + emb.unsqueeze(2).unsqueeze(3)
        skips = [x]
        x = self.down(x)
        q, k, v = self.qkv(self.norm(x)).reshape(x.shape[0], WIDTH, 3, -1).unbind(2)
        attended = torch.einsum("nqk,nck->ncq", Attention.apply(q, k), v)
        x = self.up(x + attended.reshape(*x.shape))
        if x.shape[1] != self.joined.in_channels:
            x = torch.cat([x, skips.pop()], dim=1)
        output: Tensor = self.last(nn.functional.silu(self.joined(x)))
        return output


class Labelled(nn.Module):
    """A whole number for one-hot labels: the last one is "none", all zeros."""

    def __init__(self) -> None:
        super().__init__()
        self.network = Network()
        self.register_buffer("one_hot", torch.eye(CLASSES + 1, CLASSES))

    def forward(self, x: Tensor, time: Tensor, label: Tensor) -> Tensor:
        output: Tensor = self.network(x, time, self.one_hot[label])
        return output


@pytest.mark.slow
def test_such_a_network_is_exported_as_it_is() -> None:
    torch.manual_seed(0)
    label = Condition("class", input="label", null=CLASSES, low=0, high=CLASSES - 1)
    spec = Spec("edm", (3, 8, 8), (label,), "edm", ScheduleSpec("edm"))
    prepared, table = verified(TorchSource(Labelled().requires_grad_(False), spec, "edm", "0" * 64))
    assert table.worst.relative < 1e-5
    assert prepared.prologue is not None
    assert not {"Tile", "Where", "Shape"} & set(prepared.body.ops())
    transposed = next(node for node in prepared.body.nodes if node.op == "ConvTranspose")
    assert prepared.body.is_constant(transposed.inputs[1])
