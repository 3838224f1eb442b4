"""Files that users ask for outside a bundle: whole, or as they were before."""

import os
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from tempfile import TemporaryFile
from typing import IO

from fewstep.graph.commit import refuse_in_bundle
from fewstep.plans.errors import UserError
from fewstep.runtime.interrupts import check_interrupted


def check_writable(path: Path) -> None:
    """UserError unless a file can be made where `path` shall lie, and takes the place of none of a bundle: found out
    before hours of work, not after."""
    if not path.absolute().parent.is_dir():
        raise UserError(f"there is no folder {path.parent}", "make it first, or write elsewhere")
    if path.is_dir():
        raise UserError(f"{path} is a folder", "give the path of a file")
    refuse_in_bundle(path)
    try:
        with TemporaryFile(dir=Path(os.path.realpath(path)).parent):  # of a link, where it leads
            pass
    except OSError as error:
        raise UserError(
            f"{path} cannot be written ({error.strerror or error})",
            "check the permissions of its folder, or write elsewhere",
        ) from None


@contextmanager
def atomic_file(path: Path) -> Iterator[IO[bytes]]:
    """A stream whose bytes become the file `path` when the block ends without an error; a former file stays until then.

    They lie beside it meanwhile, under a hidden name, which goes with an error. UserError where they cannot be written.
    """
    target = Path(os.path.realpath(path))  # a link goes on leading to the file
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
        reason = error.strerror or str(error)  # numpy counts the bytes that are missing, without an errno
        raise UserError(
            f"{path} cannot be written ({reason})", "check its permissions and the space left, or give another path"
        ) from None


def write_atomic(path: Path, content: bytes) -> None:
    """`content` as the file `path`; UserError, and the former file, where it cannot be written."""
    with atomic_file(path) as stream:
        stream.write(content)
