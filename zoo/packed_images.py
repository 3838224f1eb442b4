"""CIFAR-10's training images in two files of 42 MB, for training where Pillow and a package index are missing.

`python -m lab.train zoo/cifar10_dit --data DIR` reads them. The compression is lossless and needs numpy and lzma.
Colours become (G, R - G, B - G), and each value becomes its difference from the median predictor of LOCO-I (Weinberger
et al. 2000, "The LOCO-I lossless image compression algorithm", eq. 1). The 50 000 images take 83 MB this way, 116 MB in
PNG files and 154 MB uncompressed.
"""

import lzma
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

# The entropy coder of LZMA with contexts of single bytes. The residuals hardly repeat, so one candidate for a match is
# enough: five times as fast as preset 6 with its binary trees, and no larger.
SEARCH = {"mf": lzma.MF_HC3, "depth": 1, "nice_len": 273}
FILTERS = [{"id": lzma.FILTER_LZMA2, "preset": 6, "lc": 0, "lp": 0, "pb": 0, **SEARCH}]
SUFFIX = ".part{}.npz"
PARTS = 2

Images = NDArray[np.uint8]


def pack(images: Images) -> bytes:
    """Compress images [N, 3, H, W]."""
    return lzma.compress(_residuals(_decorrelate(images)).tobytes(), lzma.FORMAT_XZ, filters=FILTERS)


def unpack(content: bytes, height: int, width: int) -> Images:
    """Return the images [N, 3, H, W] that `pack` compressed."""
    residuals = np.frombuffer(lzma.decompress(content), np.uint8).reshape(3, height, width, -1)
    planes = np.empty_like(residuals)
    for row in range(height):
        for column in range(width):
            planes[:, row, column] = residuals[:, row, column] + _predict(planes, row, column)
    green = planes[0]
    return np.ascontiguousarray(np.stack([planes[1] + green, green, planes[2] + green]).transpose(3, 0, 1, 2))


def write_parts(images: Images, labels: Images, folder: Path, name: str, parts: int) -> list[Path]:
    """Write images [N, 3, H, W] and their labels [N] as NAME.part1.npz and so on. Returns the files."""
    folder.mkdir(parents=True, exist_ok=True)
    files = []
    for number, rows in enumerate(np.array_split(np.arange(len(images)), parts), 1):
        files.append(folder / (name + SUFFIX.format(number)))
        packed = np.frombuffer(pack(images[rows]), np.uint8)
        np.savez(files[-1], packed=packed, size=np.array(images.shape[2:]), labels=labels[rows], parts=parts)
    return files


def read_parts(folder: Path, name: str) -> tuple[Images, Images]:
    """Return the images [N, 3, H, W] and labels [N] that `write_parts` wrote. Raises FileNotFoundError, which names a
    missing part."""
    images, labels, number, parts = list[Images](), list[Images](), 1, 1
    while number <= parts:
        with np.load(folder / (name + SUFFIX.format(number))) as part:
            images.append(unpack(part["packed"].tobytes(), *map(int, part["size"])))
            labels.append(part["labels"])
            parts = int(part["parts"])
        number += 1
    return np.concatenate(images), np.concatenate(labels)


def _decorrelate(images: Images) -> Images:
    """Return the planes [3, H, W, N]: green, red minus green, and blue minus green, modulo 256."""
    red, green, blue = images.transpose(1, 2, 3, 0)
    return np.stack([green, red - green, blue - green])


def _residuals(planes: Images) -> Images:
    residuals = np.empty_like(planes)
    for row in range(planes.shape[1]):
        for column in range(planes.shape[2]):
            residuals[:, row, column] = planes[:, row, column] - _predict(planes, row, column)
    return residuals


def _predict(planes: Images, row: int, column: int) -> Images:
    """Return the median predictor [3, N] of a pixel, from the pixels to its left, above it, and above left of it."""
    if not row and not column:
        return np.zeros_like(planes[:, 0, 0])
    if not row:
        return planes[:, 0, column - 1]
    if not column:
        return planes[:, row - 1, 0]
    left, above = planes[:, row, column - 1], planes[:, row - 1, column]
    corner = planes[:, row - 1, column - 1]
    low, high = np.minimum(left, above), np.maximum(left, above)
    return np.where(corner >= high, low, np.where(corner <= low, high, left + above - corner))
