"""An image that is stored in bands of rows, of which the first are freed when nothing needs them any more."""

from collections import deque

import numpy as np

from fewstep.runtime.arrays import Float32


class StoredRows:
    """Rows [1, C, H, W] of an image, appended band by band. An image of one band is stored without a copy."""

    def __init__(self) -> None:
        self.bands: deque[tuple[int, Float32]] = deque()  # each with its first row
        self.end = 0

    @property
    def width(self) -> int:
        return int(self.bands[0][1].shape[3])

    def append(self, band: Float32) -> None:
        self.bands.append((self.end, band))
        self.end += band.shape[2]

    def rows(self, start: int, end: int) -> Float32:
        """Return rows in a contiguous array."""
        parts = [band[:, :, max(start - first, 0) : end - first] for first, band in self._between(start, end)]
        return np.ascontiguousarray(parts[0]) if len(parts) == 1 else np.concatenate(parts, axis=2)

    def free_before(self, row: int) -> None:
        """Free the bands that end at or before a row."""
        while self.bands and self.bands[0][0] + self.bands[0][1].shape[2] <= row:
            self.bands.popleft()

    def _between(self, start: int, end: int) -> list[tuple[int, Float32]]:
        return [(first, band) for first, band in self.bands if first < end and first + band.shape[2] > start]
