"""Stored results of benchmarks, so that an interrupted run continues: results in a folder, and rows next to a page."""

from collections.abc import Callable, Iterable
from hashlib import sha256
from pathlib import Path
from typing import Any, TypeVar

import msgspec

from fewstep.plans.errors import UserError

Found = TypeVar("Found")


def digest(*follows_from: object) -> str:
    """Return twelve digits of a hash of all that determines a result."""
    return sha256(repr(follows_from).encode()).hexdigest()[:12]


def load_or_compute(folder: Path, kind: type[Found], find: Callable[[], Found], *follows_from: object) -> Found:
    """Return the result of `find`, cached in a file named by a digest of `follows_from`."""
    form = msgspec.json.schema(kind)  # a file of another form is of earlier code
    file = folder / f"{digest(form, *follows_from)}.json"
    if not file.exists():
        folder.mkdir(parents=True, exist_ok=True)
        partial = file.with_suffix(".partial")
        partial.write_bytes(msgspec.json.encode(find()))
        partial.replace(file)
    return msgspec.json.decode(file.read_bytes(), type=kind)


def read_rows(path: Path, kind: type[Found]) -> list[Found]:
    """Return the stored rows of a page. Raises UserError if the file has rows of another form."""
    try:
        return msgspec.json.decode(path.read_bytes(), type=list[kind]) if path.exists() else []  # type: ignore[valid-type]
    except msgspec.DecodeError as error:
        raise UserError(f"{path} has a row of another form: {error}", f"git checkout {path.name}") from error


def write_rows(path: Path, rows: Iterable[Any]) -> None:
    """Write a line for each row."""
    lines = b",\n".join(map(msgspec.json.encode, rows))
    path.write_bytes(b"[\n" + lines + b"\n]\n")
