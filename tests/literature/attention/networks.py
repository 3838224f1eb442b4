"""Networks with self-attention and with cross-attention to a condition, whose weights are far from zero."""

from pathlib import Path

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from fewstep.export.changes import apply_changes, read_change
from fewstep.export.export import export
from fewstep.export.export_options import ExportOptions
from fewstep.export.sources.torch_module import TorchSource
from fewstep.export.spec import Spec
from fewstep.plans.spec import ScheduleSpec
from fewstep.runtime.bundle.manifest import Condition

WIDTH, HEADS, TOKENS, WORDS = 16, 2, 16, 16
TEXT = Condition("text", "text", (WORDS, WIDTH), "float32", null=0.0)
SPEC = Spec("attending", (2, 4, 4), (TEXT,), "epsilon", ScheduleSpec("linear"))


class Attention(nn.Module):
    """Attention to as many words as there are tokens, so that their number does not distinguish them."""

    def __init__(self) -> None:
        super().__init__()
        self.q, self.k, self.v = (nn.Linear(WIDTH, WIDTH) for _ in range(3))

    def split(self, h: Tensor) -> Tensor:
        return h.unflatten(2, (HEADS, -1)).transpose(1, 2)

    def forward(self, h: Tensor, seen: Tensor) -> Tensor:
        q, k, v = self.split(self.q(h)), self.split(self.k(seen)), self.split(self.v(seen))
        return F.scaled_dot_product_attention(query=q, key=k, value=v).transpose(1, 2).flatten(2)


class Block(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.own, self.words = Attention(), Attention()

    def forward(self, h: Tensor, text: Tensor) -> Tensor:
        h = h + self.own(h, torch.cat([h[:, :2], h], dim=1))  # keys after a prefix of two
        return h + self.words(h, text)


class Net(nn.Module):
    """Blocks over the pixels, two except in graphs. The words attend to each other first."""

    def __init__(self, blocks: int = 2) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.into, self.out = nn.Linear(2, WIDTH), nn.Linear(WIDTH, 2)
        self.encoder = Attention()
        self.blocks = nn.ModuleList(Block() for _ in range(blocks))
        self.requires_grad_(False)

    def forward(self, x: Tensor, time: Tensor, text: Tensor) -> Tensor:
        h = self.into(x.flatten(2).transpose(1, 2)) * (1 + time[:, None, None] / 1000)
        text = text + self.encoder(text, text)
        for block in self.blocks:
            h = block(h, text)
        return self.out(h).transpose(1, 2).reshape(x.shape)


class Text(nn.Module):
    """A network of diffusers that takes a text; the default text is ones."""

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = network

    def forward(self, x: Tensor, time: Tensor, text: Tensor | None = None) -> Tensor:
        return self.network(x, time, torch.ones(x.shape[0], 5, 12) if text is None else text).sample


def inputs(batch: int = 3) -> tuple[Tensor, Tensor, Tensor]:
    generator = torch.Generator().manual_seed(1)
    x, text = torch.randn(batch, 2, 4, 4, generator=generator), torch.randn(batch, WORDS, WIDTH, generator=generator)
    return x, torch.tensor([10.0, 500.0, 900.0, 30.0])[:batch], text


def rewritten(*changes: str, blocks: int = 2) -> TorchSource:
    """Return the network with a number of blocks, changed as by `export --change`."""
    source = apply_changes(TorchSource(Net(blocks), SPEC, "net", "0" * 64), (), tuple(map(read_change, changes)))
    assert isinstance(source, TorchSource)
    return source


class Copying(nn.Module):
    """x0 is the pixel that each pixel attends to, lighter by half for each class above 1."""

    def forward(self, x: Tensor, time: Tensor, label: Tensor) -> Tensor:
        h = x.flatten(2).transpose(1, 2)[:, None] + 0 * time[:, None, None, None]
        seen = F.scaled_dot_product_attention(query=4 * h, key=h, value=h)
        return seen[:, 0].transpose(1, 2).reshape(x.shape) + 0.5 * (label - 1)[:, None, None, None]


def make() -> tuple[nn.Module, Spec]:
    return Net(1), SPEC


def copying() -> tuple[nn.Module, Spec]:
    return Copying(), Spec("copying", (2, 4, 4), (Condition("class", "label", low=0, high=2),), "sample", SPEC.schedule)


def export_block(folder: Path, change: str, network: str = "make") -> Path:
    """Export the network of one block, changed."""
    export(ExportOptions(f"{__file__}:{network}", folder / "bundle", change=(change,), verify="quick"))
    return folder / "bundle"
