"""List the content of the cache folder (each folder with its number of files, size and age), and remove it."""

import errno
import os
import shutil
from collections.abc import Iterable, Iterator
from contextlib import suppress
from pathlib import Path
from time import time

import msgspec

from fewstep.runtime.machine import cache

PURPOSES: dict[str, str] = {
    "engines": "records of the engines that were built here; without them, such engines need trust_engines",
    "timing": "measurements of TensorRT's builder on this GPU",
    "jit": "code that TensorRT-RTX compiled on this GPU",
    "openvino": "code that OpenVINO compiled on this machine",
    "calibration": "counts of interrupted calibrations",
    "fitting": "samples of teachers, and fits that were interrupted",
    "agreement": "graphs on which an engine agrees with onnxruntime on this machine",
    "choices": "engines, plans and bodies that were measured for choices on this machine",
    "refusals": "int8 bodies that the last calibration could not make, and the reasons",
}


class Content(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A folder, or a single file, in the cache folder.

    `days` are the days since the latest and the earliest write. `purpose` is empty if this version of fewstep does not
    write it.
    """

    kind: str
    purpose: str
    files: int
    bytes: int
    days: tuple[float, float]


def contents() -> tuple[Content, ...]:
    """Return what is stored in the cache folder, with known kinds of entries first. Raises OSError if the folder cannot
    be read."""
    folder = cache.folder()
    names = sorted(os.listdir(folder)) if folder.is_dir() else []
    order = {kind: number for number, kind in enumerate(PURPOSES)}
    return tuple(_content(folder / name) for name in sorted(names, key=lambda name: order.get(name, len(order))))


def clear(kinds: Iterable[str]) -> None:
    """Remove folders and files of the cache folder, by name. A link is removed, but not its target.

    Files that another process writes meanwhile may remain. Raises OSError if something cannot be removed, or if the
    cache folder itself is a link, whose target may not be a cache.
    """
    if cache.folder().is_symlink():
        raise OSError(errno.ELOOP, "it is a link: remove its target yourself", str(cache.folder()))
    for name in kinds:
        path = cache.folder() / name
        if path.is_dir() and not path.is_symlink():
            shutil.rmtree(path)
        else:
            path.unlink(missing_ok=True)


def _content(path: Path) -> Content:
    entries = [*_entries(path)]
    now = time()
    times = [entry.st_mtime for entry in entries] or [now]
    days = (now - max(times)) / 86400, (now - min(times)) / 86400
    return Content(path.name, PURPOSES.get(path.name, ""), len(entries), sum(entry.st_size for entry in entries), days)


def _entries(path: Path) -> Iterator[os.stat_result]:
    """Yield the files of a folder. Another process may remove one meanwhile."""
    for file in _files(path):
        with suppress(FileNotFoundError):
            yield file.lstat()


def _files(path: Path) -> Iterator[Path]:
    """Yield all files in a folder and its subfolders, without following links."""
    if not path.is_dir() or path.is_symlink():
        yield path
        return
    for folder, folders, files in os.walk(path):
        yield from (Path(folder, name) for name in files)
        yield from (link for name in folders if (link := Path(folder, name)).is_symlink())
