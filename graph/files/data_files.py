"""The files in which an ONNX graph stores its weights, in the places that belong to its model."""

import os
from pathlib import Path, PurePath

import numpy as np

from fewstep.graph.files import weights
from fewstep.graph.graph import Array
from fewstep.plans.errors import UserError
from fewstep.runtime.bundle.reading import bundle_home
from fewstep.runtime.links import Home, is_below

WRITE_AGAIN = "copy or write the bundle again"


def home_of(path: Path, root: Path | None = None) -> Home:
    """Return the places that may hold the weights of a graph: those of its bundle, or of its file."""
    return Home(path.parent, path) if root is None else bundle_home(root)


def data_file(path: Path, home: Home, location: str) -> Path:
    """Return the file that a graph at `path` calls `location`, without links. Raises UserError unless it exists, in a
    place that belongs to the model."""
    if not location or PurePath(location).is_absolute():
        raise UserError(f"{path.name} refers to weights by the absolute path {location!r}", WRITE_AGAIN)
    if not is_below(path.parent / location, home.folder):
        raise UserError(f"{path.name} refers to weights outside its folder ({location!r})", WRITE_AGAIN)
    try:
        file = home.resolve(path.parent / location)
        is_file = file.is_file()
    except (OSError, RuntimeError, ValueError) as error:  # too long, links in a circle, a zero byte
        what = (
            f"{path.name} has its weights in {location[:80]!r}, which is not a path, or is a link to itself ({error})"
        )
        raise UserError(what, WRITE_AGAIN) from error
    if not is_file:
        raise UserError(f"{location}, the weights of {path.name}, is missing", WRITE_AGAIN)
    return file


class DataFiles:
    """The weight files that a graph at `path` refers to, each mapped at its first use."""

    def __init__(self, path: Path, home: Home) -> None:
        self.path, self.home = path, home
        self._mapped: dict[str, Array] = {}

    def __getitem__(self, location: str) -> Array:
        if location not in self._mapped:
            data_file(self.path, self.home, location)
            with self.home.open(self.path.parent / location) as file:
                is_empty = os.fstat(file.fileno()).st_size == 0
                self._mapped[location] = np.empty(0, np.uint8) if is_empty else weights.map_file(file)
        return self._mapped[location]
