"""The option `--call`: arguments of a pipeline's call for its recording, such as height=512 or image_embeds=@x.npy."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any
from zipfile import BadZipFile

import numpy as np
from numpy.typing import NDArray

from fewstep.export.sources import shipped
from fewstep.export.sources.diffusers.files import is_component
from fewstep.export.sources.folder_kinds import find_folder_kind
from fewstep.plans.errors import UserError, first_line

FILE = "@"  # before the path of a .npy file


def parse_call(texts: Sequence[str]) -> dict[str, Any]:
    """Return the arguments that texts NAME=VALUE give, by name. A value @FILE is the array of a .npy file. Other values
    are read as JSON if they are valid JSON, otherwise as text."""
    given: dict[str, Any] = {}
    for text in texts:
        name, equals, value = text.partition("=")
        if not equals or not name.isidentifier():
            raise UserError(f"--call {text!r} is not NAME=VALUE", "give an argument such as height=512")
        if value.startswith(FILE):
            given[name] = _read_array(name, Path(value.removeprefix(FILE)))
            continue
        try:
            given[name] = json.loads(value)
        except ValueError:
            given[name] = value
    return given


def _read_array(name: str, path: Path) -> NDArray[Any]:
    """Return the array in a .npy file, of any shape. Floats are converted to float32, the type of the pipeline. Raises
    UserError for a file that cannot be read, and for an array that is not numeric."""
    try:
        read = np.load(path, allow_pickle=False)  # a pickle runs code
    except (OSError, ValueError, EOFError, BadZipFile) as error:
        reason = getattr(error, "strerror", None) or first_line(error)
        raise UserError(f"--call {name}=@{path} cannot be read ({reason})", "give a .npy file of one array") from error
    if not isinstance(read, np.ndarray) or read.dtype.kind not in "fiub":
        raise UserError(f"--call {name}=@{path} is not an array of numbers", "give a .npy file of one array")
    return read.astype(np.float32 if read.dtype.kind == "f" else read.dtype.newbyteorder("="))


def read_call(text: str, call: Sequence[str], spec: Path | None) -> dict[str, Any]:
    """Return the arguments of a call. Raises UserError if there are any but the source is not a diffusers pipeline."""
    path = Path(text)
    is_file = ".py:" in text and not path.is_dir()  # a function, which may return a pipeline
    if (
        not call
        or is_file
        or (path.is_dir() and not (spec or text in shipped.NAMES or is_component(path) or _has_kind(path)))
    ):
        return parse_call(call)
    raise UserError(f"source {text!r} has no pipeline to call", "leave --call out: it is for diffusers pipelines")


def _has_kind(path: Path) -> bool:
    return find_folder_kind(path) is not None
