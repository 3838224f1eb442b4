"""Fashion-MNIST as arrays (Xiao, Rasul, Vollgraf 2017, MIT licence), from the four idx files that Zalando and Debian
distribute."""

import gzip
from pathlib import Path

import numpy as np

DEBIAN_FOLDER = Path("/usr/share/datasets/fashion-mnist")  # package dataset-fashion-mnist


def read(folder: Path | None = None, split: str = "train") -> tuple[np.ndarray, np.ndarray]:
    """Return the images uint8 [N, 28, 28] and labels uint8 [N] of a split, "train" (60 000) or "test" (10 000). A
    folder of None means the folder of Debian's package."""
    folder = folder or DEBIAN_FOLDER
    if not folder.is_dir():
        raise SystemExit(f"no Fashion-MNIST in {folder}: apt install dataset-fashion-mnist, or pass --data FOLDER")
    part = "t10k" if split == "test" else split
    images = gzip.decompress((folder / f"{part}-images-idx3-ubyte.gz").read_bytes())
    labels = gzip.decompress((folder / f"{part}-labels-idx1-ubyte.gz").read_bytes())
    return (
        np.frombuffer(images, np.uint8, offset=16).reshape(-1, 28, 28),
        np.frombuffer(labels, np.uint8, offset=8),
    )
