"""Inference engines behind one small protocol: each opens a graph and runs it, and says which bodies suit it."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

Arrays = Mapping[str, NDArray[Any]]


class Network(Protocol):
    """An opened graph: named inputs to named outputs. May be called from several threads at once."""

    def __call__(self, feeds: Arrays) -> dict[str, NDArray[np.float32]]: ...


class Backend(Protocol):
    """An inference engine and its settings."""

    @property
    def bodies(self) -> Mapping[str, tuple[str, ...]]:
        """Per precision the names of the bodies that it runs well, the best first."""
        ...

    def open(self, graph: Path) -> Network:
        """Load a graph. The bundle has checked the file; the backend reports what it cannot run as a UserError."""
        ...
