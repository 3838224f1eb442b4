"""The option `--call`: arguments of a pipeline's call for its recording, such as height=512 or image_embeds=@x.npy."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any
from zipfile import BadZipFile

import numpy as np
from numpy.typing import NDArray

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
