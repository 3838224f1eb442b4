"""The output of `fewstep run`: a grid of images, or an array."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fewstep.graph.files.output_files import atomic_file, write_atomic

PICTURE, ARRAY = ".png", ".npy"
SMALL, SMALL_SCALE = 64, 3  # samples of up to SMALL pixels are enlarged by SMALL_SCALE


def square_columns(samples: int) -> int:
    """Return the number of columns of a square grid."""
    return int(np.ceil(np.sqrt(samples)))


def default_scale(shape: Sequence[int]) -> int:
    """Return the default enlargement for samples of a shape."""
    return SMALL_SCALE if max(shape[-2:]) <= SMALL else 1


def write_samples(x: NDArray[Any], path: Path, columns: int | None, scale: int | None) -> None:
    """Write samples [N, ...] to a .png or a .npy file."""
    if path.suffix == ARRAY:
        with atomic_file(path) as stream:
            np.save(stream, x)
        return
    from fewstep.report.drawing import pictures

    write_atomic(
        path,
        pictures.encode_png(pictures.draw_grid(x, columns or square_columns(len(x)), scale or default_scale(x.shape))),
    )
