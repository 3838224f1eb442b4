"""The memory of exporting a large network, compared with an upper limit: `python -m benchmarks.memory`.

A network of random weights (3 GB by default; `python -m benchmarks.memory 0.5` for half a GB) goes through the whole
command `fewstep export`, verification included. Every resident page counts, also pages mapped from files, which the
system could drop. Linux only. Exits with 1 if the limit is exceeded. It needs twice the weights on disk, and deletes
everything.
"""

import os
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from benchmarks import command_cost
from benchmarks.command_cost import Cost
from benchmarks.options import parser_of

BAR = 1.3  # times the weights
WIDTH = 2048  # of the linear layers
CHANNELS = 512  # of the convolutions
BLOCK = 4 * (8 * WIDTH * WIDTH + 2 * WIDTH * CHANNELS + 9 * CHANNELS**2 + 2 * (WIDTH + CHANNELS))  # bytes of one block
GB = 1e9

DENOISER = """
import torch
from torch import nn

from fewstep.export import ScheduleSpec, Spec

WIDTH, CHANNELS, BLOCKS = {width}, {channels}, {blocks}


class Block(nn.Module):
    '''Weights that ONNX has as they are (a convolution), and such as it has transposed (linear layers).'''

    def __init__(self):
        super().__init__()
        self.conv = nn.Conv2d(CHANNELS, CHANNELS, 3, padding=1)
        self.into = nn.Linear(CHANNELS, WIDTH)
        self.out = nn.Linear(WIDTH, CHANNELS)
        self.layers = nn.ModuleList(nn.Linear(WIDTH, WIDTH, bias=False) for _ in range(7))
        self.shift = nn.Linear(WIDTH, WIDTH)

    def forward(self, h, time):
        tokens = self.into(torch.relu(self.conv(h)).flatten(2).transpose(1, 2))
        tokens = tokens + self.shift(torch.relu(time))[:, None, :]
        for layer in self.layers:
            tokens = torch.relu(layer(tokens))
        return h + self.out(tokens).transpose(1, 2).unflatten(2, (4, 4))


class Denoiser(nn.Module):
    def __init__(self):
        super().__init__()
        self.time = nn.Linear(1, WIDTH)
        self.first, self.last = nn.Conv2d(4, CHANNELS, 1), nn.Conv2d(CHANNELS, 4, 1)
        self.blocks = nn.ModuleList(Block() for _ in range(BLOCKS))

    def forward(self, x, time):
        h, t = self.first(x), self.time(time[:, None] / 1000)
        for block in self.blocks:
            h = block(h, t)
        return self.last(h)


def make():
    torch.manual_seed(0)
    return Denoiser().requires_grad_(False), Spec("large", (4, 4, 4), (), "v", ScheduleSpec("cosine"))
"""


@dataclass(frozen=True)
class Export:
    """One export: bytes of weights, what it cost, and the bytes of the bundle."""

    weights: int
    cost: Cost
    bundle: int

    @property
    def ratio(self) -> float:
        return self.cost.peak / self.weights


def measure(size: float, folder: Path, options: Sequence[str] = ()) -> Export:
    """Export a network of about `size` bytes of weights in a process of its own; `options` go to the command."""
    blocks, source, bundle = max(1, round(size / BLOCK)), folder / "large.py", folder / "bundle"
    source.write_text(DENOISER.format(width=WIDTH, channels=CHANNELS, blocks=blocks))
    command = [sys.executable, "-m", "fewstep.cli", "export", f"{source}:make", "-o", str(bundle), "-q", *options]
    cost = command_cost.measure(command)
    return Export(blocks * BLOCK, cost, sum(path.stat().st_size for path in bundle.rglob("*") if path.is_file()))


def main() -> int:
    parser = parser_of(__doc__)
    parser.add_argument("size", type=float, nargs="?", default=3.0, help="GB of weights (default %(default)s)")
    size = parser.parse_args().size * GB
    with tempfile.TemporaryDirectory(dir=os.environ.get("TMPDIR", ".")) as folder:
        found = measure(size, Path(folder))
    verdict = "" if found.ratio <= BAR else "  MISSED"
    print(f"weights             {found.weights / GB:6.2f} GB")
    print(f"bundle              {found.bundle / GB:6.2f} GB, written in {found.cost.seconds:.0f} s")
    resident = f"{found.cost.peak / GB:6.2f} GB = {found.ratio:.2f} x the weights, of {BAR} x{verdict}"
    print(f"resident at most    {resident}")
    return 1 if found.ratio > BAR else 0


if __name__ == "__main__":
    sys.exit(main())
