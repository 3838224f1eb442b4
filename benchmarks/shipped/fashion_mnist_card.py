"""Write the model's card from a finished training run: `python -m benchmarks.shipped.fashion_mnist_card --work FOLDER`.

Copies the weights to models/fashion_mnist and writes card.md, samples.png (a row per class, 50 DDIM steps, guidance 2)
and loss.svg, so that no figure of the card is typed in by hand.
"""

import argparse
import shutil
from pathlib import Path

import torch
from torch import Tensor

from benchmarks.shipped.cards import loss_svg, read_losses, write_samples
from fewstep.models.fashion_mnist import data
from fewstep.models.fashion_mnist.train import TIMESTEPS, cosine_alphas_cumprod
from fewstep.models.fashion_mnist.unet import CLASSES, NULL_CLASS, WEIGHTS, UNet, load
from fewstep.models.training import EMA_DECAY, NULL_FRACTION

HERE = Path(data.__file__).resolve().parent
GUIDANCE = 2.0
COLUMNS = 10


@torch.no_grad()
def held_out_loss(network: UNet, folder: Path, images: int = 2_000) -> float:
    """Mean squared error of v on the first images of the test split, each at one timestep (seed 1)."""
    raw, labels = data.read(folder, "t10k")
    x0 = torch.from_numpy(raw[:images].copy())[:, None].float() / 127.5 - 1
    generator = torch.Generator().manual_seed(1)
    times = torch.randint(TIMESTEPS, (images,), generator=generator)
    noise = torch.randn(x0.shape, generator=generator)
    alphas_cumprod = cosine_alphas_cumprod().float()[times][:, None, None, None]
    alpha, sigma = alphas_cumprod.sqrt(), (1 - alphas_cumprod).sqrt()
    total = 0.0
    for rows in torch.arange(images).split(100):
        x = alpha[rows] * x0[rows] + sigma[rows] * noise[rows]
        v = network(x, times[rows], torch.from_numpy(labels[:images].copy()).long()[rows])
        total += (v - (alpha[rows] * noise[rows] - sigma[rows] * x0[rows])).square().mean().item() * len(rows)
    return total / images


@torch.no_grad()
def ddim(network: UNet, labels: Tensor, seed: int, steps: int = 50) -> Tensor:
    """Samples [B, 1, 28, 28] with classifier-free guidance."""
    alphas_cumprod = cosine_alphas_cumprod().float()
    x = torch.randn(len(labels), 1, 28, 28, generator=torch.Generator().manual_seed(seed))
    both = torch.cat([labels, torch.full_like(labels, NULL_CLASS)])
    times = [round(TIMESTEPS - i * TIMESTEPS / steps) - 1 for i in range(steps)]
    for t, following in zip(times, [*times[1:], -1], strict=True):
        v_cond, v_null = network(torch.cat([x, x]), torch.full((len(both),), t), both).chunk(2)
        v = v_null + GUIDANCE * (v_cond - v_null)
        alpha, sigma = alphas_cumprod[t].sqrt(), (1 - alphas_cumprod[t]).sqrt()
        x0, eps = alpha * x - sigma * v, sigma * x + alpha * v
        end = alphas_cumprod[following] if following >= 0 else torch.tensor(1.0)
        x = end.sqrt() * x0 + (1 - end).sqrt() * eps
    return x


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--work", type=Path, required=True, help="the folder that train.py wrote")
    parser.add_argument("--data", type=Path, default=data.DEBIAN_FOLDER, help="folder of the four idx files")
    options = parser.parse_args()
    shutil.copyfile(options.work / WEIGHTS, HERE / WEIGHTS)
    losses = read_losses(options.work)
    checkpoint = torch.load(options.work / "checkpoint.pt", weights_only=True)
    arguments = checkpoint["arguments"]
    network = load()
    labels = torch.arange(len(CLASSES)).repeat_interleave(COLUMNS)
    write_samples(ddim(network, labels, seed=0), COLUMNS, HERE / "samples.png")
    (HERE / "loss.svg").write_text(loss_svg(losses))
    parameters = sum(tensor.numel() for tensor in network.parameters())
    images_seen = checkpoint["step"] * arguments["batch"]
    (HERE / "card.md").write_text(f"""# fashion_mnist

A class-conditional UNet for 28x28 grey images of clothes, {parameters / 1e6:.2f} M parameters (`unet.py`): three
resolutions, attention at 7x7, adaptive group normalisation, {100 * NULL_FRACTION:.0f} % null class for guidance.
It exists to try and to measure fewstep; it has no other use.

| | |
|---|---|
| data | Fashion-MNIST, all 60 000 training images (Xiao, Rasul, Vollgraf 2017, arXiv 1708.07747), MIT licence |
| prediction, schedule | v, cosine, {TIMESTEPS} timesteps |
| command | `python -m fewstep.models.fashion_mnist.train --work FOLDER --steps {arguments["steps"]}` |
| optimizer | AdamW, batch {arguments["batch"]}, peak learning rate {arguments["rate"]:g}, EMA {EMA_DECAY:g} |
| seed | {arguments["seed"]} |
| steps | {checkpoint["step"]} ({images_seen / 60_000:.1f} passes over the data) |
| arithmetic | bfloat16 autocast on a CPU |
| last training loss | {losses[-1][1]:.4f} (mean squared error of v, mean of the last steps) |
| held-out loss | {held_out_loss(network, options.data):.4f} (2 000 test images, averaged weights as shipped) |
| weights | `{WEIGHTS}`, averaged, float16, {(HERE / WEIGHTS).stat().st_size / 1e6:.2f} MB |

![samples](samples.png)

A row per class ({", ".join(CLASSES)}), not selected:
seed 0, 50 DDIM steps, guidance {GUIDANCE:g}.

![loss](loss.svg)

`python -m benchmarks.shipped.fashion_mnist_card --work FOLDER` wrote this page.
""")


if __name__ == "__main__":
    main()
