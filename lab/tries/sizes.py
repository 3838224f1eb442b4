"""Networks of free sizes against torch at every allowed size, and refusals of all others."""

import tempfile
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn

from fewstep.export.export import export
from fewstep.export.export_options import ExportOptions
from fewstep.export.spec import Spec
from fewstep.plans.spec import ScheduleSpec
from fewstep.runtime import Sampler, load
from fewstep.runtime.bundle.manifest import Condition
from fewstep.runtime.kinds.sizes import Size
from lab.tries.attempt import Attempt, check_close


class Free(nn.Module):
    """Convolutions, a U of two levels, attention over all places, positions from the size, words of the same length."""

    def __init__(self, kind: str) -> None:
        super().__init__()
        self.kind = kind
        self.first, self.down, self.last = (
            nn.Conv2d(2, 8, 3, padding=1),
            nn.Conv2d(8, 8, 3, 2, 1),
            nn.Conv2d(8, 2, 3, padding=1),
        )
        self.up, self.qkv, self.words = nn.ConvTranspose2d(8, 8, 4, 2, 1), nn.Linear(8, 24), nn.Linear(3, 8)

    def forward(self, x: Tensor, time: Tensor, words: Tensor) -> Tensor:
        h = self.first(x) + (time / 999)[:, None, None, None]
        if "words" in self.kind:
            h = h + self.words(words).transpose(1, 2)[:, :, None]
        else:
            h = h + self.words(words).mean(1)[:, :, None, None]
        if "positions" in self.kind:
            h = h + torch.linspace(-1, 1, h.shape[2])[:, None] + torch.arange(h.shape[3]) / h.shape[3]
        d = self.down(h)
        if "attention" in self.kind:
            q, k, v = self.qkv(d.flatten(2).transpose(1, 2))[:, None].chunk(3, -1)
            d = d + nn.functional.scaled_dot_product_attention(q, k, v)[:, 0].transpose(1, 2).unflatten(2, d.shape[2:])
        if "interpolate" in self.kind:
            u = nn.functional.interpolate(d, size=h.shape[2:], mode="bilinear")
        elif "windows" in self.kind:
            b, c, hh, ww = d.shape
            w = d.reshape(b, c, hh // 2, 2, ww // 2, 2).permute(0, 2, 4, 1, 3, 5).softmax(-1)
            u = self.up(d + w.permute(0, 3, 1, 4, 2, 5).reshape(d.shape))
        else:
            u = self.up(d)
        return self.last(nn.functional.silu(h + u) - h.mean((2, 3), keepdim=True))


KINDS = (
    "plain",
    "positions",
    "attention",
    "interpolate",
    "windows",
    "words positions",
    "attention interpolate positions",
    "words attention windows",
)


def build(kind: str, seed: int) -> tuple[nn.Module, Spec]:
    torch.manual_seed(seed)
    follows = {0: "width"} if "words" in kind else {}
    words = Condition("words", "text", (16, 3), "float32", follows=follows)
    sizes = Size("height", axis=1, low=8, high=40, multiple=4), Size("width", axis=2, low=8, high=48, multiple=4)
    return Free(kind).eval(), Spec("free", (2, 16, 16), (words,), "epsilon", ScheduleSpec("linear"), sizes=sizes)


def attempts(random: np.random.Generator, number: int) -> Iterator[Attempt]:
    each = -(-number // len(KINDS))
    for kind in KINDS:
        seed, folder = int(random.integers(2**31)), Path(tempfile.mkdtemp())
        opened: list[Sampler] = []

        def open_one(kind=kind, seed=seed, folder=folder, opened=opened) -> Sampler:  # type: ignore[no-untyped-def]
            if not opened:
                (folder / "own.py").write_text(
                    f"from lab.tries.sizes import build\n\ndef make():\n    return build({kind!r}, {seed})\n"
                )
                export(ExportOptions(f"{folder / 'own.py'}:make", folder / "bundle", verify="quick"))
                opened.append(load(folder / "bundle"))
            return opened[0]

        for _ in range(each):
            height, width = int(random.integers(1, 12)) * 4, int(random.integers(1, 14)) * 4
            if random.random() < 0.15:
                height += int(random.integers(1, 4))
            is_allowed = 8 <= height <= 40 and height % 4 == 0 and 8 <= width <= 48
            rows, draw = int(random.integers(1, 4)), int(random.integers(2**31))

            def run(height=height, width=width, rows=rows, draw=draw, open_one=open_one, kind=kind, seed=seed) -> None:  # type: ignore[no-untyped-def]
                sampler, own = open_one(), np.random.default_rng(draw)
                sized = sampler.with_options(height=height, width=width)
                x = own.standard_normal((rows, 2, height, width)).astype(np.float32)
                words = own.standard_normal((rows, width if "words" in kind else 16, 3)).astype(np.float32)
                time = float(own.integers(0, 1000))
                with torch.no_grad():
                    right = build(kind, seed)[0](
                        *map(torch.from_numpy, (x, np.full(rows, time, np.float32), words))
                    ).numpy()
                check_close(sized.evaluate(x, time, {"words": words}), right, 2e-5)

            yield Attempt(f"{kind} at {height} x {width}, seed {seed}", run, must_refuse=not is_allowed)
