"""Words for errors of modules: the class that failed, its line of code, the first line of the message."""

import traceback
from pathlib import Path

import torch


def place(error: BaseException) -> str:
    """' (FILE:LINE)' of the innermost frame outside torch and fewstep.export, or nothing."""
    for frame in reversed(traceback.extract_tb(error.__traceback__)):
        file = Path(frame.filename)
        foreign = not any(
            file.is_relative_to(folder) for folder in (Path(torch.__file__).parent, Path(__file__).parent)
        )
        if file.suffix == ".py" and foreign:
            return f" ({file.name}:{frame.lineno})"
    return ""


def one_line(error: BaseException) -> str:
    return (str(error).strip().splitlines() or [type(error).__name__])[0]


def module_name(module: torch.nn.Module) -> str:
    return type(module).__name__
