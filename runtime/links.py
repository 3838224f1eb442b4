"""Files of a model that are links, as in the cache of huggingface_hub.

That cache has the content of a file in `blobs/`, and the model's folder holds links to it. So a model may have links,
but only to places that belong to it:

- below the folder in which the caller named it;
- below the folder of the file to which its first file leads, such as blobs/ (ONNX Runtime since 1.26 has these two
  rules for weights in separate files);
- for a snapshot in a hub's cache, its blobs/ and the store that the models of the cache share (huggingface_hub 2).

A link to any other place could make a downloaded folder read private files. So could a hard link. It is refused too,
unless the file's SHA-256 is known.
"""

import os
import re
import stat
from collections.abc import Collection, Iterable, Iterator
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import BinaryIO

from fewstep.plans.errors import UserError

COPY_FILES = "copy the files themselves, as cp -rL does"
SNAPSHOTS, BLOBS = "snapshots", "blobs"
REPOSITORY = re.compile(r"(?:models|datasets|spaces|kernels)--.+")  # a folder of the hub's cache
SHARED = ".huggingface-shared-blobs"  # marks the store that the models of a cache share


@dataclass(frozen=True)
class Home:
    """The places from which the files of one model may be read.

    folder: the folder in which the caller named the model. It may be a link itself.
    first: the file by which a reader knows the model, such as its graph, its index or its manifest. It may be a link to
        any place if the caller named it.
    hashed: whether the SHA-256 of every file is known, so that files may have several hard links.
    """

    folder: Path
    first: Path | None = None
    hashed: bool = False

    @cached_property
    def places(self) -> tuple[Path, ...]:
        """The folders, without links, below which the model's files may lie."""
        named = [self.folder] if self.first is None else [self.folder, self.first.resolve().parent]
        return tuple(dict.fromkeys(place.resolve() for place in (*named, *_hub_places(self.folder))))

    def resolve(self, file: Path) -> Path:
        """Return the file to which a path in the folder leads. The path need not exist.

        Raises UserError if the file is a link to another place, or has several hard links. Raises OSError and
        ValueError for an invalid path.
        """
        try:
            real = file.resolve()
        except RuntimeError:  # Python 3.12 and earlier
            real = file
        if real.is_symlink():
            raise UserError(f"{file} is a link that leads to itself", COPY_FILES)
        if not any(real.is_relative_to(place) for place in self.places):
            if is_below(file, self.folder):
                raise UserError(f"{file} is a link that leads to {real}, outside {self.folder}", COPY_FILES)
            raise UserError(f"{file} is outside {self.folder}", f"put the file in {self.folder}")
        if not self.hashed and real.is_file() and real.stat().st_nlink > 1:
            what = f"{file} has {real.stat().st_nlink} hard links, so it may be another program's file"
            raise UserError(what, "copy the file, so that it has one name")
        return real

    def open(self, file: Path) -> BinaryIO:
        """Open a file that `resolve` accepts. Raises UserError if another one took its place in the meantime, and
        OSError."""
        real = self.resolve(file)
        opened = open(real, "rb", opener=_open_no_link)  # noqa: SIM115 - the caller closes it
        try:
            there, now = os.fstat(opened.fileno()), os.stat(self.resolve(file), follow_symlinks=False)
        except BaseException:
            opened.close()
            raise
        if not os.path.samestat(there, now) or not stat.S_ISREG(there.st_mode):
            opened.close()
            raise _replacement_error(file)
        return opened

    @contextmanager
    def keep(self, files: Iterable[Path]) -> Iterator[None]:
        """Check files that the block opens by their paths. Raises UserError as `resolve` does, and if a link or the
        file to which it leads is another one after the block than before."""
        before = {file: self._identity(file) for file in files if self.resolve(file).exists()}
        yield
        for file, identity in before.items():
            if self._identity(file) != identity:
                raise _replacement_error(file)

    def _identity(self, file: Path) -> tuple[object, ...]:
        """Return what changes if a path leads to another file, or if that file is written."""
        real, link = self.resolve(file), file.lstat()
        there = real.lstat()
        return real, link.st_dev, link.st_ino, link.st_ctime_ns, there.st_dev, there.st_ino, there.st_mtime_ns


def keep_folder(folder: Path, suffixes: Collection[str], first: Iterable[str]) -> AbstractContextManager[None]:
    """Check the files of a model's folder and of its subfolders that libraries open by their paths, as `Home.keep`
    does.

    suffixes: those of the files that may be read. first: names of files by which a reader knows the folder.
    """
    there = next((file for name in first if (file := folder / name).is_file()), None)
    files = [*folder.glob("*"), *folder.glob("*/*")]
    return Home(folder, there).keep(file for file in files if file.suffix in suffixes and not file.is_dir())


def refuse_broken_link(file: Path) -> None:
    """Raise UserError for a link that leads to no file, as in a hub's cache that lost a part of its content."""
    if file.is_symlink() and not file.exists():
        what = f"{file} is a link to {os.readlink(file)}, where there is no file"
        raise UserError(what, "download or copy the model again")


def _replacement_error(file: Path) -> UserError:
    what = f"{file} changed while it was read: the path or its link now leads to another file"
    return UserError(what, "run the command again when no other program writes there")


def _open_no_link(path: str, flags: int) -> int:
    """Open a path that has no links. Raises OSError if it has become one."""
    return os.open(path, flags | getattr(os, "O_NOFOLLOW", 0) | getattr(os, "O_NONBLOCK", 0))


def is_below(file: Path, folder: Path) -> bool:
    """Return whether a path without its links is below a folder."""
    return Path(os.path.abspath(file)).is_relative_to(os.path.abspath(folder))


def is_link(file: Path) -> bool:
    """Return whether a file is a link itself. Links among its folders do not count."""
    return file.resolve() != file.parent.resolve() / file.name


def _hub_places(folder: Path) -> Iterator[Path]:
    """Yield where the cache of huggingface_hub has the content of the files of a snapshot's folder."""
    for path in (Path(os.path.abspath(folder)), folder.resolve()):
        for repository in path.parents:
            below = path.relative_to(repository).parts
            if REPOSITORY.fullmatch(repository.name) and len(below) > 1 and below[0] == SNAPSHOTS:
                stores = [repository / BLOBS]
                if (shared := repository.parent / BLOBS).joinpath(SHARED).is_file():
                    stores.append(shared)
                yield from (store for store in stores if not store.is_symlink())  # it could lead to any place
