"""Real samples for comparison: an array in a file, read in batches."""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fewstep.plans.errors import UserError

ROWS_AT_ONCE = 256


@dataclass(frozen=True)
class Data:
    """Samples [N, *x_shape] of a file: uint8, float in model range, or ids. `name` is the file's name."""

    name: str
    array: NDArray[np.generic]
    vocabulary: int | None = None  # number of token ids

    def __len__(self) -> int:
        return len(self.array)

    def batches(self) -> Iterator[NDArray[Any]]:
        """Yield the samples in model range [-1, 1], or their ids, in order."""
        for start in range(0, len(self.array), ROWS_AT_ONCE):
            part = self.array[start : start + ROWS_AT_ONCE]
            if self.vocabulary is not None:
                yield part.astype(np.int64)
                continue
            yield part.astype(np.float32) / 127.5 - 1 if part.dtype == np.uint8 else part.astype(np.float32)


def open_data(path: Path, x_shape: tuple[int, ...], vocabulary: int | None = None) -> Data:
    """Open a .npy file without reading it; only token ids are read. [N, H, W] is accepted for grey images [N, 1, H, W].

    Raises UserError if the file has no such samples, or fewer than 2.
    """
    content = "uint8, or of floats in [-1, 1]" if vocabulary is None else f"ids from 0 to {vocabulary - 1}"
    fix = f"give a .npy of {content}, [N, {', '.join(map(str, x_shape))}]"
    try:
        array = np.load(path, mmap_mode="r", allow_pickle=False)
    except (OSError, ValueError, EOFError) as error:
        reason = getattr(error, "strerror", None) or "it is no .npy file of numbers"
        raise UserError(f"{path} cannot be read ({reason})", fix) from error
    if not isinstance(array, np.ndarray):
        raise UserError(f"{path} holds several arrays", fix)
    if array.shape[1:] == x_shape[1:] and x_shape[0] == 1:
        array = array.reshape(len(array), *x_shape)
    if array.shape[1:] != x_shape or len(array) < 2:
        raise UserError(f"{path} has the shape {list(array.shape)}", fix)
    if vocabulary is not None:
        if array.dtype.kind not in "iu" or array.min() < 0 or array.max() >= vocabulary:
            raise UserError(f"{path} has numbers that are no ids", fix)
    elif array.dtype != np.uint8:
        if not np.issubdtype(array.dtype, np.floating):
            raise UserError(f"{path} holds {array.dtype}", fix)
        if float(np.abs(array[: min(len(array), ROWS_AT_ONCE)]).max()) > 1.001:
            raise UserError(f"{path} holds values outside [-1, 1]", fix)
    return Data(path.stem, array, vocabulary)
