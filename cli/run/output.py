"""The output of `fewstep run`: a grid of images or of videos, sound, or an array."""

import io
import wave
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fewstep.graph.files.output_files import atomic_file, write_atomic

PICTURE, ARRAY, SOUND, ANIMATIONS = ".png", ".npy", ".wav", (".gif", ".webp")
VIDEO = 5  # number of axes of videos [N, frames, channels, height, width]
SMALL, SMALL_SCALE = 64, 3  # samples of up to SMALL pixels are enlarged by SMALL_SCALE


def square_columns(samples: int) -> int:
    """Return the number of columns of a square grid."""
    return int(np.ceil(np.sqrt(samples)))


def default_scale(shape: Sequence[int]) -> int:
    """Return the default enlargement for samples of a shape."""
    return SMALL_SCALE if max(shape[-2:]) <= SMALL else 1


def write_array(x: NDArray[Any], path: Path) -> None:
    """Write samples [N, ...] to a .npy file."""
    with atomic_file(path) as stream:
        np.save(stream, x)


def write_pictures(x: NDArray[Any], path: Path, columns: int | None, scale: int | None, rate: float | None) -> None:
    """Write images [N, channels, height, width], or videos [N, frames, channels, height, width], in [-1, 1]. A .png
    file has the frames of a video in a row. Other files show videos at `rate` frames per second, side by side."""
    from fewstep.report.drawing import pictures

    scale = scale or default_scale(x.shape)
    if path.suffix == PICTURE:
        rows = columns or (x.shape[1] if x.ndim == VIDEO else square_columns(len(x)))
        write_atomic(path, pictures.encode_png(pictures.draw_grid(x.reshape(-1, *x.shape[-3:]), rows, scale)))
        return
    assert rate is not None, "it was checked"
    frames = [pictures.draw_grid(frame, columns or square_columns(len(x)), scale) for frame in x.swapaxes(0, 1)]
    write_atomic(path, pictures.encode_animation(frames, path.suffix.removeprefix("."), rate))


def write_sounds(x: NDArray[Any], path: Path, rate: float, seed: int) -> None:
    """Write sounds [N, channels, samples] in [-1, 1] as 16-bit .wav files. Louder samples are clipped. One sound has
    the name that is given; several are numbered from `seed`."""
    for number, sound in enumerate(x):
        stream = io.BytesIO()
        with wave.open(stream, "wb") as file:
            file.setnchannels(len(sound))
            file.setsampwidth(2)
            file.setframerate(round(rate))
            file.writeframes(np.rint(np.clip(sound.T, -1, 1) * (2**15 - 1)).astype("<i2").tobytes())
        write_atomic(path if len(x) == 1 else path.with_stem(f"{path.stem}-{seed + number}"), stream.getvalue())
