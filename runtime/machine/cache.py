"""The cache folder of this user holds what belongs to this machine and never to a bundle.

`cache_contents.PURPOSES` says what each purpose is. All may be deleted. The next run then takes longer, and engines
that this machine built need `trust_engines`.
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
]

LONGEST_WRITE = 3600.0  # seconds after which a draft is nobody's

DIGEST = 32  # bytes

LOG = logging.getLogger("fewstep")
_WARNED: set[tuple[str, int | None]] = set()  # cache folders, and what kept this process from writing there


def folder() -> Path:
    """XDG_CACHE_HOME where it is set, else what the system has for caches, and in it `fewstep`.

    A relative XDG_CACHE_HOME counts as none, as its specification has it: with one, whatever folder a program is
    started in could say which engines this machine built. OSError where the user has no home.
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
    """The stored content, or None. Only a regular file is read: a pipe would be waited for."""
    try:
        file = path(purpose, name)
        return file.read_bytes() if file.is_file() else None
    except OSError:
        return None


def read_intact(purpose: Purpose, name: str) -> bytes | None:
    """The content that `store_intact` stored; None, with a warning, where it was damaged since."""
    content = read(purpose, name)
    if content is None:
        return None
    digest, content = content[:DIGEST], content[DIGEST:]
    if sha256(content).digest() == digest:
        return content
    LOG.warning("%s is damaged, and is made again", path(purpose, name))
    return None


def store_intact(purpose: Purpose, name: str, content: bytes) -> None:
    """`store` after the SHA-256 of the content."""
    store(purpose, name, sha256(content).digest(), content)


def store(purpose: Purpose, name: str, *content: bytes) -> None:
    """Store these bytes, one behind the other, whole or not at all. A folder that cannot be written costs a warning,
    once: a cache is never needed."""
    try:
        target = path(purpose, name)
        target.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        draft = target.with_name(f".{name}.{os.getpid()}")
        try:
            with draft.open("wb") as file:
                file.writelines(content)
            os.replace(draft, target)
        finally:
            draft.unlink(missing_ok=True)  # nothing there, unless it was interrupted or the disk is full
        _remove_drafts(target)
    except OSError as error:
        _warn(error, purpose, name)


def _warn(error: OSError, purpose: Purpose, name: str) -> None:
    """Warn once for each folder and reason: a run stores many times."""
    try:
        warning = (str(folder()), error.errno)
    except OSError:
        warning = ("", error.errno)
    if warning not in _WARNED:
        _WARNED.add(warning)
        place = error.filename or f"{purpose}/{name}"
        LOG.warning("%s cannot be written (%s), so nothing is kept for the next time", place, error.strerror)


def _remove_drafts(target: Path) -> None:
    """Remove drafts of writers that were killed; another process may be writing one just now."""
    for draft in target.parent.iterdir():
        if draft.name.startswith(f".{target.name}."):
            with suppress(OSError):  # somebody else removed it
                if time() - draft.stat().st_mtime > LONGEST_WRITE:
                    draft.unlink()
