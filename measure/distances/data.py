"""Real samples for comparison: an array in a file, read in batches."""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fewstep.plans.errors import UserError
from fewstep.runtime.kinds.sample_space import CONTINUOUS, SampleSpace

ROWS_AT_ONCE = 256


@dataclass(frozen=True)
class Data:
    """Samples [N, *x_shape] of a file: uint8, float in model range, or ids. `name` is the file's name."""

    name: str
    array: NDArray[np.generic]
    space: SampleSpace = CONTINUOUS

    def __len__(self) -> int:
        return len(self.array)

    def batches(self) -> Iterator[NDArray[Any]]:
        """Yield the samples in batches, in order: in model range [-1, 1], or as token ids."""
        for start in range(0, len(self.array), ROWS_AT_ONCE):
            yield self.space.from_file(self.array[start : start + ROWS_AT_ONCE])


def open_data(path: Path, x_shape: tuple[int, ...], space: SampleSpace = CONTINUOUS) -> Data:
    """Open a .npy file as a memory map. Grey images [N, 1, H, W] may have the shape [N, H, W].

    Raises UserError if the file has no such samples, or fewer than 2.
    """
    fix = f"give a .npy of {space.file_content}, [N, {', '.join(map(str, x_shape))}]"
    try:
        array = np.load(path, mmap_mode="r", allow_pickle=False)
    except (OSError, ValueError, EOFError) as error:
        reason = getattr(error, "strerror", None) or "it is not a .npy file of numbers"
        raise UserError(f"{path} cannot be read ({reason})", fix) from error
    if not isinstance(array, np.ndarray):
        raise UserError(f"{path} holds several arrays", fix)
    if array.shape[1:] == x_shape[1:] and x_shape[0] == 1:
        array = array.reshape(len(array), *x_shape)
    if array.shape[1:] != x_shape or len(array) < 2:
        raise UserError(f"{path} has the shape {list(array.shape)}", fix)
    if problem := space.file_problem(array, ROWS_AT_ONCE):
        raise UserError(f"{path} {problem}", fix)
    return Data(path.stem, array, space)
