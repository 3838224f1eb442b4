"""Train the Fashion-MNIST UNet on a CPU: `python -m fewstep.models.fashion_mnist.train --work FOLDER`.

v-prediction (Salimans & Ho 2022, arXiv 2202.00512) on the cosine schedule (Nichol & Dhariwal 2021, arXiv 2102.09672),
uniform timesteps, AdamW, EMA. Stop it at any time: the same command goes on from the last checkpoint, bit for bit in
its data order. The learning rate is constant until the last fifth, then falls to zero, so a run may also be lengthened.
"""

import argparse
import csv
import math
import os
import time
from pathlib import Path

import torch
from torch import Tensor

from fewstep.models.fashion_mnist import data
from fewstep.models.fashion_mnist.unet import NULL_CLASS, WEIGHTS, UNet

TIMESTEPS = 1000
WARM_UP = 200
EMA_DECAY = 0.999
NULL_FRACTION = 0.1


def cosine_alphas_cumprod() -> Tensor:
    """Nichol & Dhariwal 2021, equation 17, betas capped at 0.999. float64 [1000]."""
    f = torch.cos((torch.arange(TIMESTEPS + 1, dtype=torch.float64) / TIMESTEPS + 0.008) / 1.008 * math.pi / 2) ** 2
    betas = (1 - f[1:] / f[:-1]).clamp(max=0.999)
    return (1 - betas).cumprod(0)


def learning_rate(step: int, steps: int, peak: float) -> float:
    return peak * min(1.0, (step + 1) / WARM_UP, (steps - step) / (0.2 * steps))


def batch(images: Tensor, labels: Tensor, size: int, seed: int, step: int) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Images, labels, timesteps and noise of one step: a function of (seed, step), so a resumed run sees the same."""
    generator = torch.Generator().manual_seed(seed * 1_000_003 + step)
    rows = torch.randint(len(images), (size,), generator=generator)
    times = torch.randint(TIMESTEPS, (size,), generator=generator)
    dropped = torch.rand(size, generator=generator) < NULL_FRACTION
    noise = torch.randn(size, 1, 28, 28, generator=generator)
    return images[rows], labels[rows].masked_fill(dropped, NULL_CLASS), times, noise


def save_atomically(content: object, path: Path) -> None:
    torch.save(content, path.with_suffix(".tmp"))
    os.replace(path.with_suffix(".tmp"), path)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--work", type=Path, required=True, help="folder of the checkpoint, the loss and the weights")
    parser.add_argument("--data", type=Path, default=data.DEBIAN_FOLDER, help="folder of the four idx files")
    parser.add_argument("--steps", type=int, default=9_000)
    parser.add_argument("--batch", type=int, default=64)
    parser.add_argument("--rate", type=float, default=6e-4)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--checkpoint-minutes", type=float, default=10)
    options = parser.parse_args()
    options.work.mkdir(parents=True, exist_ok=True)
    checkpoint_path, loss_path = options.work / "checkpoint.pt", options.work / "loss.csv"

    raw_images, raw_labels = data.read(options.data)
    images = torch.from_numpy(raw_images.copy())[:, None].float() / 127.5 - 1
    labels = torch.from_numpy(raw_labels.copy()).long()
    alphas_cumprod = cosine_alphas_cumprod().float()

    torch.manual_seed(options.seed)
    network = UNet().to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    optimizer = torch.optim.AdamW(network.parameters(), lr=options.rate, betas=(0.9, 0.99), weight_decay=1e-3)
    average = {name: tensor.clone() for name, tensor in network.state_dict().items()}
    first, losses = 0, []
    if checkpoint_path.exists():
        checkpoint = torch.load(checkpoint_path, weights_only=True)
        network.load_state_dict(checkpoint["network"])
        optimizer.load_state_dict(checkpoint["optimizer"])
        average, first, losses = checkpoint["average"], checkpoint["step"], checkpoint["losses"]
        print(f"going on from step {first}", flush=True)

    started = saved = time.monotonic()
    running: list[float] = []
    for step in range(first, options.steps):
        x0, label, times, noise = batch(images, labels, options.batch, options.seed, step)
        alpha = alphas_cumprod[times].sqrt()[:, None, None, None]
        sigma = (1 - alphas_cumprod[times]).sqrt()[:, None, None, None]
        with torch.autocast("cpu", dtype=torch.bfloat16):
            v = network(alpha * x0 + sigma * noise, times, label)
        loss = (v.float() - (alpha * noise - sigma * x0)).square().mean()
        for group in optimizer.param_groups:
            group["lr"] = learning_rate(step, options.steps, options.rate)
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(network.parameters(), 1.0)
        optimizer.step()
        decay = min(EMA_DECAY, (1 + step) / (10 + step))
        for name, tensor in network.state_dict().items():
            average[name].lerp_(tensor, 1 - decay)
        running.append(loss.item())

        last = step + 1 == options.steps
        if len(running) == 50 or last:
            losses.append((step + 1, sum(running) / len(running)))
            speed = (step + 1 - first) / (time.monotonic() - started)
            left = (options.steps - step - 1) / speed / 60
            print(
                f"step {step + 1}/{options.steps}  loss {losses[-1][1]:.4f}  {speed:.2f} it/s  {left:.0f} min left",
                flush=True,
            )
            running = []
        if last or time.monotonic() - saved > 60 * options.checkpoint_minutes:
            save_atomically(
                {
                    "network": network.state_dict(),
                    "optimizer": optimizer.state_dict(),
                    "average": average,
                    "step": step + 1,
                    "losses": losses,
                    "arguments": {
                        "steps": options.steps,
                        "batch": options.batch,
                        "rate": options.rate,
                        "seed": options.seed,
                    },
                },
                checkpoint_path,
            )
            write_weights(average, options.work / WEIGHTS)
            with loss_path.open("w", newline="") as file:
                csv.writer(file).writerows([("step", "loss"), *losses])
            saved = time.monotonic()


def write_weights(average: dict[str, Tensor], path: Path) -> None:
    """The averaged weights as float16 safetensors."""
    from safetensors.torch import save_file

    save_file({name: tensor.half().contiguous() for name, tensor in average.items()}, path, {"format": "pt"})


if __name__ == "__main__":
    main()
