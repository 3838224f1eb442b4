"""The user's cache folder, for data that belongs to this machine and never to a bundle.

`cache_contents.PURPOSES` describes each purpose. The folder may be deleted at any time. The next run then takes longer,
and engines that this machine built need `trust_engines`.
"""

import errno
import logging
import os
import sys
from contextlib import suppress
from hashlib import sha256
from pathlib import Path
from time import time
from typing import Literal

Purpose = Literal[
    "engines",
    "timing",
    "jit",
    "openvino",
    "calibration",
    "agreement",
    "fitting",
    "choices",
    "refusals",
]

LONGEST_WRITE = 3600.0  # seconds after which a temporary file is considered abandoned

DIGEST = 32  # bytes

LOG = logging.getLogger("fewstep")
_WARNED: set[tuple[str, int | None]] = set()  # cache folders and error numbers that this process has warned about


def folder() -> Path:
    """Return `fewstep` in XDG_CACHE_HOME if it is set, else in the system's folder for caches.

    A relative XDG_CACHE_HOME is ignored, as its specification requires: otherwise the current folder of a program could
    decide which engines this machine built. Raises OSError if the user has no home.
    """
    chosen = os.environ.get("XDG_CACHE_HOME", "")
    if os.path.isabs(chosen):
        return Path(chosen) / "fewstep"
    if os.name == "nt" and (local := os.environ.get("LOCALAPPDATA")):
        return Path(local) / "fewstep" / "cache"
    place = "Library/Caches" if sys.platform == "darwin" else ".cache"
    try:
        return Path.home() / place / "fewstep"
    except RuntimeError as error:  # a container's user may have none
        raise OSError(errno.ENOENT, str(error)) from error


def path(purpose: Purpose, name: str) -> Path:
    return folder() / purpose / name


def read(purpose: Purpose, name: str) -> bytes | None:
    """Return the content stored under a name, or None if there is none or it cannot be read. Only regular files are
    read, because reading a pipe would block."""
    try:
        file = path(purpose, name)
        return file.read_bytes() if file.is_file() else None
    except OSError:
        return None


def read_intact(purpose: Purpose, name: str) -> bytes | None:
    """Return the content that `store_intact` stored. If it is damaged, warn and return None."""
    content = read(purpose, name)
    if content is None:
        return None
    digest, content = content[:DIGEST], content[DIGEST:]
    if sha256(content).digest() == digest:
        return content
    LOG.warning("%s is damaged, and is made again", path(purpose, name))
    return None


def store_intact(purpose: Purpose, name: str, content: bytes) -> None:
    """Store content after its SHA-256, for `read_intact`."""
    store(purpose, name, sha256(content).digest(), content)


def store(purpose: Purpose, name: str, *content: bytes) -> None:
    """Store these bytes, concatenated, atomically.

    A folder that cannot be written only causes a warning, once, because a cache is never required.
    """
    try:
        target = path(purpose, name)
        target.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        draft = target.with_name(f".{name}.{os.getpid()}")
        try:
            with draft.open("wb") as file:
                file.writelines(content)
            os.replace(draft, target)
        finally:
            draft.unlink(missing_ok=True)  # it only exists if the write was interrupted or the disk is full
        _remove_drafts(target)
    except OSError as error:
        _warn(error, purpose, name)


def remove(purpose: Purpose, name: str) -> None:
    """Remove what is stored under a name. Nothing happens if there is nothing, or if it cannot be removed."""
    with suppress(OSError):
        path(purpose, name).unlink(missing_ok=True)


def _warn(error: OSError, purpose: Purpose, name: str) -> None:
    """Warn once for each folder and reason, because a run stores many times."""
    try:
        warning = (str(folder()), error.errno)
    except OSError:
        warning = ("", error.errno)
    if warning not in _WARNED:
        _WARNED.add(warning)
        place = error.filename or f"{purpose}/{name}"
        LOG.warning("%s cannot be written (%s), so nothing is cached for the next run", place, error.strerror)


def _remove_drafts(target: Path) -> None:
    """Remove temporary files of processes that were killed while writing, but not files that another process may be
    writing now."""
    for draft in target.parent.iterdir():
        if draft.name.startswith(f".{target.name}."):
            with suppress(OSError):  # another process removed it
                if time() - draft.stat().st_mtime > LONGEST_WRITE:
                    draft.unlink()
