"""Rounded weights that several lowerings share: those of one target, and of methods that differ in what follows.

The search for the scales of weights takes most of the time of a lowering. Its result is kept under all that it follows
from. Of large networks it lies in files, each of which is mapped: no more of it is in memory than is being read.
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
    """Rounded weights by what they were made of. `path` gives a file's path by its name; without it they stay in
    memory. Threads may ask at once: two that ask for the same weight may both make it, each in a file of its own."""

    path: Callable[[str], Path] | None = None
    _found: dict[Key, QuantizedWeight] = field(default_factory=dict, init=False)
    _numbers: Iterator[int] = field(default_factory=count, init=False)  # of files, none of which is written twice

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        """Weights that no graph holds are given back."""
        self._found.clear()

    def of(self, weight: NDArray[np.float32], how: Key, make: Callable[[], QuantizedWeight]) -> QuantizedWeight:
        """What `make` makes of a weight; `how` are the other numbers that this follows from."""
        content = sha256(np.ascontiguousarray(weight).data)
        key = (content.digest(), weight.shape, *how)
        if key not in self._found:
            self._found[key] = self._kept(make(), content.hexdigest())
        return self._found[key]

    def _kept(self, made: QuantizedWeight, name: str) -> QuantizedWeight:
        if self.path is None or made.values.nbytes < LARGE:
            return made
        file = self.path(f"rounded-{next(self._numbers)}-{name}")
        with file.open("wb") as stream:
            stream.write(made.values.data)
        return replace(made, values=np.memmap(file, np.int8, mode="r", shape=made.values.shape))
