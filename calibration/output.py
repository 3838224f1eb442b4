"""Files that users ask for outside a bundle: whole, or as they were before."""

import os
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import IO

from fewstep.runtime.errors import UserError


@contextmanager
def whole_file(path: Path) -> Iterator[IO[bytes]]:
    """A stream whose bytes become the file `path` when the block ends without an error; a former file stays until then.

    They lie beside it meanwhile, under a hidden name, which goes with an error. UserError where they cannot be written.
    """
    target = Path(os.path.realpath(path))  # a link goes on leading to the file
    draft = target.with_name(f".{target.name}.{os.getpid()}")
    try:
        try:
            with draft.open("wb") as stream:
                yield stream
            os.replace(draft, target)
        finally:
            with suppress(OSError):
                draft.unlink()
    except OSError as error:
        reason = error.strerror or str(error)  # numpy counts the bytes that are missing, without an errno
        raise UserError(
            f"{path} cannot be written ({reason})", "check its permissions and the space left, or give another path"
        ) from None


def write_whole(path: Path, content: bytes) -> None:
    """`content` as the file `path`; UserError, and the former file, where it cannot be written."""
    with whole_file(path) as stream:
        stream.write(content)
