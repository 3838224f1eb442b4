"""Train the feature extractor: `python -m benchmarks.shipped.fashion_mnist_classifier --work FOLDER`."""

from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from benchmarks.shipped.classifiers import Classified, train_classifier
from fewstep.models.fashion_mnist import data
from fewstep.models.fashion_mnist.unet import CLASSES, IMAGE_SHAPE


def read(folder: Path, split: str) -> tuple[NDArray[np.uint8], NDArray[np.uint8]]:
    images, labels = data.read(folder, split)
    return images[:, None], labels


FASHION_MNIST = Classified(
    name="fashion-mnist-cnn",
    title="Fashion-MNIST",
    about="(Xiao, Rasul, Vollgraf 2017, arXiv 1708.07747), MIT licence",
    x_shape=IMAGE_SHAPE,
    classes=len(CLASSES),
    width=32,
    shift=1,
    read=read,
    test_split="t10k",
    module="benchmarks.shipped.fashion_mnist_classifier",
    folder=data.DEBIAN_FOLDER,
    how_to_get="folder of the four idx files",
)

if __name__ == "__main__":
    train_classifier(FASHION_MNIST, steps=9_000)
