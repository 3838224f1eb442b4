"""Put a finished training run into a shipped denoiser's folder: `python -m benchmarks.shipped.card NAME --work FOLDER`.

Copies the weights to models/NAME, and writes the table of its card.md, samples.png (a row per class along PLAN) and
loss.svg, so that no figure of the run is typed in by hand. The card's prose stays as it is.
"""

import importlib
import shutil
from pathlib import Path
from tempfile import TemporaryDirectory
from types import ModuleType

import numpy as np
import torch
from torch import Tensor

from benchmarks.markdown import put_part, table
from benchmarks.options import parser_of
from benchmarks.shipped.cards import loss_svg, read_losses, write_samples
from benchmarks.zoo.denoising import Batch, loss_of
from benchmarks.zoo.members import SHIPPED
from fewstep.export.export import ExportOptions, export
from fewstep.export.sources.shipped import load_shipped
from fewstep.export.sources.torch_module import TorchSource
from fewstep.models.training import EMA_DECAY
from fewstep.runtime import load

SCRIPT = "benchmarks.shipped.card"
PLAN, GUIDANCE, COLUMNS = "ddim:50", 2.0, 10
HELD_OUT, AT_ONCE = 2_000, 100  # test images
TEST = {"fashion_mnist": "t10k", "cifar10": "test"}  # split


def data_of(name: str) -> ModuleType:
    """The module that reads the data of a shipped denoiser, which lies beside its weights."""
    return importlib.import_module(f"fewstep.models.{name}.data")


@torch.no_grad()
def held_out_loss(source: TorchSource, images: np.ndarray, labels: np.ndarray) -> float:
    """Mean squared error of the prediction on images of the test split, each at one time (seed 1)."""

    def draw(count: int, generator: torch.Generator) -> Batch:
        rows = torch.randint(len(images), (count,), generator=generator).numpy()
        x0 = torch.from_numpy(images[rows].reshape(count, *source.spec.x_shape) / np.float32(127.5) - 1)
        return Batch(x0, (torch.from_numpy(labels[rows]).long(),))

    generator, network = torch.Generator().manual_seed(1), source.module.eval()
    losses = [loss_of(source.spec, network, draw, AT_ONCE, generator) for _ in range(HELD_OUT // AT_ONCE)]
    return float(torch.stack(losses).mean())


def samples(name: str, classes: int) -> Tensor:
    """COLUMNS pictures of each class, not selected: seeds from 0 on."""
    with TemporaryDirectory() as folder:
        export(ExportOptions(name, Path(folder) / "bundle", verify="quick"))
        with load(Path(folder) / "bundle") as sampler:
            labels = np.repeat(np.arange(classes), COLUMNS)
            return torch.from_numpy(sampler.sample(PLAN, range(len(labels)), {"class": labels}, GUIDANCE))


def run_table(name: str, source: TorchSource, work: Path, folder: Path) -> str:
    """The rows of a card that follow from a training run."""
    data = data_of(name)
    checkpoint = torch.load(work / "checkpoint.pt", weights_only=True, map_location="cpu")
    arguments, losses = checkpoint["arguments"], read_losses(work)
    passes = checkpoint["step"] * arguments["batch"] / len(data.read(folder)[0])
    weights = work / f"{name}.safetensors"
    loss = held_out_loss(source, *data.read(folder, TEST[name]))
    parameters = sum(tensor.numel() for tensor in source.module.parameters())
    rows = [
        ("parameters", f"{parameters / 1e6:.2f} M"),
        ("optimizer", f"AdamW, batch {arguments['batch']}, peak rate {arguments['rate']:g}, EMA {EMA_DECAY:g}"),
        ("seed", str(arguments["seed"])),
        ("steps", f"{checkpoint['step']} of {arguments['steps']} ({passes:.1f} passes over the data)"),
        ("last training loss", f"{losses[-1][1]:.4f} (mean squared error of the prediction, mean of the last steps)"),
        ("held-out loss", f"{loss:.4f} ({HELD_OUT} test images, averaged weights as stored)"),
        ("weights", f"`{weights.name}`, averaged, float16, {weights.stat().st_size / 1e6:.2f} MB"),
    ]
    return table(("of the run", ""), rows)


def main() -> None:
    parser = parser_of(__doc__)
    parser.add_argument("name", choices=[member.name for member in SHIPPED])
    parser.add_argument("--work", type=Path, required=True, help="the folder that train.py wrote")
    parser.add_argument("--data", type=Path, required=True, help="the folder of the data that train.py took")
    given = parser.parse_args()
    home = Path(str(data_of(given.name).__file__)).resolve().parent
    shutil.copyfile(given.work / f"{given.name}.safetensors", home / f"{given.name}.safetensors")
    source, page = load_shipped(given.name), home / "card.md"
    (condition,) = source.spec.conditions
    write_samples(samples(given.name, len(condition.labels)), COLUMNS, home / "samples.png")
    (home / "loss.svg").write_text(loss_svg(read_losses(given.work)))
    put_part(page, SCRIPT, run_table(given.name, source, given.work, given.data))


if __name__ == "__main__":
    main()
