"""Write files outside a bundle atomically: a file is either written completely or left unchanged."""

import os
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from tempfile import TemporaryFile
from typing import IO

from fewstep.graph.files.commit import refuse_in_bundle
from fewstep.plans.errors import UserError
from fewstep.runtime.interrupts import check_interrupted


def check_writable(path: Path) -> None:
    """Raise UserError unless a file can be created at `path` without replacing a file of a bundle. Call it before hours
    of work, not after them."""
    if not path.absolute().parent.is_dir():
        raise UserError(f"there is no folder {path.parent}", "create it first, or write elsewhere")
    if path.is_dir():
        raise UserError(f"{path} is a folder", "give the path of a file")
    _refuse_special(path)
    refuse_in_bundle(path)
    try:
        with TemporaryFile(dir=Path(os.path.realpath(path)).parent):  # follow links
            pass
    except OSError as error:
        raise UserError(
            f"{path} cannot be written ({error.strerror or error})",
            "check the permissions of its folder, or write elsewhere",
        ) from None


def _refuse_special(path: Path) -> None:
    """Raise UserError for a device, a pipe or a socket. Replacing it by a file would remove it; root could lose
    /dev/null that way."""
    if path.exists() and not path.is_file() and not path.is_dir():
        raise UserError(f"{path} is a device, a pipe or a socket", "give the path of a file")


@contextmanager
def atomic_file(path: Path) -> Iterator[IO[bytes]]:
    """Open a stream whose bytes become the file `path` when the block ends without an error. An old file stays until
    then.

    Bytes go to a hidden file in the same folder first; an error removes it. Raises UserError if they cannot be written,
    and for a path that is a device, a pipe or a socket.
    """
    _refuse_special(path)
    target = Path(os.path.realpath(path))  # follow a link, so that it stays a link
    draft = target.with_name(f".{target.name}.{os.getpid()}")
    try:
        try:
            with draft.open("wb") as stream:
                yield stream
            check_interrupted()
            os.replace(draft, target)
        finally:
            with suppress(OSError):
                draft.unlink()
    except OSError as error:
        reason = error.strerror or str(error)  # numpy reports the missing bytes without an errno
        raise UserError(
            f"{path} cannot be written ({reason})", "check its permissions and the space left, or give another path"
        ) from None


def write_atomic(path: Path, content: bytes) -> None:
    """Write `content` to the file `path`. Raises UserError and keeps the old file if that fails."""
    with atomic_file(path) as stream:
        stream.write(content)
