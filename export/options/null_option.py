"""`fewstep export --null class=10`: set a condition's null value if the source does not define it.

An array comes from a file, like `--null text=@null.npy`, or from the array of that name in an .npz file, such as
`fewstep encode` writes.
"""

import io
from collections.abc import Sequence
from pathlib import Path
from typing import Any
from zipfile import BadZipFile

import msgspec
import numpy as np
from numpy.typing import NDArray

from fewstep.export.spec import Source, Spec, with_spec
from fewstep.graph.files.commit import Writer
from fewstep.plans.errors import UserError
from fewstep.runtime.bundle.conditions import read_null
from fewstep.runtime.bundle.manifest import Condition, Manifest, Size

FILE = "@"  # before the path of a .npy file
FIX = "write NAME=VALUE, like --null class=10: a condition's name, then a number, or @FILE.npy for an array"


def with_nulls(source: Source, texts: Sequence[str]) -> Source:
    """Return the source with the null values of --null for its conditions, in place of those in its spec. A
    condition with a null value is no longer shared. Files are checked here, and `add_null_files` copies them into the
    bundle."""
    if not texts:
        return source
    conditions = {condition.name: condition for condition in source.spec.conditions}
    for text in texts:
        name, _, value = text.partition("=")
        if name not in conditions:
            has = f"; it has {', '.join(conditions)}" if conditions else ""
            raise UserError(f"--null {text!r}: {source.label} has no condition {name!r}{has}", FIX)
        if value.startswith(FILE):
            _check_file(conditions[name], value, text, source.spec.sizes)
            conditions[name] = msgspec.structs.replace(conditions[name], null=None, null_file=None, shared=False)
        else:
            conditions[name] = _set_null(conditions[name], value, text)
    return with_spec(source, conditions=tuple(conditions.values()))


def read_null_values(spec: Spec, texts: Sequence[str]) -> dict[str, NDArray[Any]]:
    """Return the null values [*shape] that are arrays, by condition name."""
    named, files = {condition.name: condition for condition in spec.conditions}, _file_paths(texts).items()
    return {name: read_null(named[name], _read_content(name, Path(path))) for name, path in files}


def _file_paths(texts: Sequence[str]) -> dict[str, str]:
    """Return the paths of null values that are arrays, by condition name."""
    values = dict(text.split("=", 1) for text in texts)
    return {name: value.removeprefix(FILE) for name, value in values.items() if value.startswith(FILE)}


def add_null_files(writer: Writer, manifest: Manifest, texts: Sequence[str]) -> Manifest:
    """Return the manifest with null arrays added to the bundle as files."""
    paths = _file_paths(texts)
    conditions = (
        msgspec.structs.replace(
            condition,
            null_file=writer.add(_read_content(condition.name, Path(path)), "graphs", f"null-{condition.name}", ".npy"),
        )
        if (path := paths.get(condition.name)) is not None
        else condition
        for condition in manifest.conditions
    )
    return msgspec.structs.replace(manifest, conditions=tuple(conditions))


def strip_folder(text: str) -> str:
    """Return the option for a command that is recorded in the bundle: a file without its folder."""
    name, _, value = text.partition("=")
    return f"{name}={FILE}{Path(value.removeprefix(FILE)).name}" if value.startswith(FILE) else text


def _read_content(name: str, path: Path) -> bytes:
    """Return the null value in a file as the bytes of a .npy file. In an .npz file, it is the only row of the array
    `name`. Raises ValueError if there is no such array, or if it has several rows."""
    if path.suffix != ".npz":
        return path.read_bytes()
    with np.load(path, allow_pickle=False) as opened:  # a pickle runs code
        if name not in opened.files:
            raise ValueError(f"it has no array {name!r}")
        array = opened[name]
    if len(array) != 1:
        raise ValueError(f"its array {name!r} has {len(array)} rows, not one")
    stream = io.BytesIO()
    np.save(stream, array[0], allow_pickle=False)
    return stream.getvalue()


def _check_file(condition: Condition, value: str, text: str, sizes: Sequence[Size]) -> None:
    """Raise UserError if the file does not contain a null value of the condition. That of a text has any length."""
    path = Path(value.removeprefix(FILE))
    lengths = {size.name: size for size in sizes if size.axis is None}
    if not lengths.keys() >= {*condition.follows.values()}:
        what = f"--null {text!r}: the shape of {condition.name!r} depends on --size, but an array has a fixed shape"
        raise UserError(what, "leave --size out, or give a number")
    try:
        shape = read_null(condition, _read_content(condition.name, path)).shape
        for axis, name in condition.follows.items():
            if not lengths[name].takes(shape[axis]):
                raise ValueError(f"{shape[axis]} is not a length of {lengths[name].range}")
    except (OSError, ValueError, BadZipFile) as error:
        reason = getattr(error, "strerror", None) or error
        fix = f"write one {condition.dtype} {list(condition.shape)} with numpy.save"
        raise UserError(f"--null {text!r}: {path} cannot be read ({reason})", fix) from None


def _set_null(condition: Condition, value: str, text: str) -> Condition:
    """Return the condition with this null value. If it is the smallest or the largest integer of the condition's range,
    the range is shortened by it, so that users cannot choose it."""
    try:
        null = int(value) if "int" in condition.dtype else float(value)
    except ValueError:
        kind = "whole number" if "int" in condition.dtype else "number"
        raise UserError(f"--null {text!r}: {value!r} is not a {kind}", FIX) from None
    low, high = condition.low, condition.high
    chosen = "int" in condition.dtype and not (condition.shape or condition.labels or condition.typical)
    if chosen and low is not None and high is not None and low < high:
        low, high = low + (null == low), high - (null == high)
    return msgspec.structs.replace(condition, null=null, null_file=None, low=low, high=high, shared=False)
