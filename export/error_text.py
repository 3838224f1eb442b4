"""Text for errors of modules: the class that failed, and its line of code."""

import re
import traceback
from collections.abc import Sequence
from pathlib import Path

import torch

FRAME = re.compile(r'\s*File "(.+)", line (\d+)')  # the format of Python tracebacks
EXPORT = Path(__file__).parent
OWN = (Path(torch.__file__).parent, EXPORT, EXPORT.with_name("pipelines"))
WRAPPERS = ("fewstep.export.sources.", "fewstep.pipelines.")  # modules with wrappers around networks of the user
OTHER_OPERATIONS = "write it with other operations, or leave it to what runs before the network"


class MissingForm(Exception):
    """Raised for an operation that cannot be expressed in ONNX operations with torch's results. `detail` follows the
    operation's name in messages, `fix` names what to write instead, and `node` is the operation's FX node, once it is
    known."""

    def __init__(self, detail: str = "", fix: str = OTHER_OPERATIONS, node: torch.fx.Node | None = None) -> None:
        super().__init__(detail)
        self.detail, self.fix, self.node = detail, fix, node


def error_location(error: BaseException) -> str:
    """Return ' (FILE:LINE)' of the innermost frame outside torch, fewstep.export and fewstep.pipelines, or ""."""
    return user_code_location(traceback.format_tb(error.__traceback__))


def location_in_file(error: BaseException, file: Path) -> str:
    """Return ' (FILE:LINE)' of the innermost frame of a file, or ""."""
    lines = [frame.lineno for frame in traceback.extract_tb(error.__traceback__) if Path(frame.filename) == file]
    return f" ({file.name}:{lines[-1]})" if lines else ""


def user_code_location(frames: Sequence[str]) -> str:
    """Return ' (FILE:LINE)' of the innermost frame of the user's code in the lines of a traceback, or ""."""
    for frame in reversed(frames):
        at = FRAME.match(frame)
        file = Path(at[1]) if at is not None else Path()
        if at is not None and file.suffix == ".py" and not any(map(file.is_relative_to, OWN)):
            return f" ({file.name}:{at[2]})"
    return ""


def module_name(module: torch.nn.Module) -> str:
    """Return the class of a module for messages. For a wrapper of fewstep around a network of the user's folder, this
    is the network's class."""
    while isinstance(inner := getattr(module, "network", None), torch.nn.Module) and _is_wrapper(module):
        module = inner
    return type(module).__name__


def _is_wrapper(module: torch.nn.Module) -> bool:
    return type(module).__module__.startswith(WRAPPERS)
