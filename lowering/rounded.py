"""Rounded weights that several lowerings share: lowerings for one target, by methods that differ in later steps.

The search for the scales of weights takes most of the time of a lowering. Its result is kept under all that it follows
from. Weights of large networks lie in mapped files: memory holds only the pages being read.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from hashlib import sha256
from itertools import count
from pathlib import Path
from typing import Self

import numpy as np
from numpy.typing import NDArray

from fewstep.graph.weights import LARGE
from fewstep.lowering.weights import QuantizedWeight

Key = tuple[object, ...]


@dataclass(frozen=True)
class Rounded:
    """Rounded weights, each under all that it follows from. `path` gives a file's path by its name; without it they
    stay in memory. Threads may ask at once: two that ask for the same weight may both make it, each in a file of its
    own."""

    path: Callable[[str], Path] | None = None
    _weights: dict[Key, QuantizedWeight] = field(default_factory=dict, init=False)
    _numbers: Iterator[int] = field(default_factory=count, init=False)  # of files, none of which is written twice

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        """Weights that no graph holds are given back."""
        self._weights.clear()

    def of(self, weight: NDArray[np.float32], how: Key, make: Callable[[], QuantizedWeight]) -> QuantizedWeight:
        """The rounded weight, from `make` when it is new. `how` are the other numbers that it follows from."""
        content = sha256(np.ascontiguousarray(weight).data)
        key = (content.digest(), weight.shape, *how)
        if key not in self._weights:
            self._weights[key] = self._kept(make(), content.hexdigest())
        return self._weights[key]

    def _kept(self, weight: QuantizedWeight, name: str) -> QuantizedWeight:
        if self.path is None or weight.values.nbytes < LARGE:
            return weight
        file = self.path(f"rounded-{next(self._numbers)}-{name}")
        with file.open("wb") as stream:
            stream.write(weight.values.data)
        return replace(weight, values=np.memmap(file, np.int8, mode="r", shape=weight.values.shape))
