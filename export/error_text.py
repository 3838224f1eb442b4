"""Words for errors of modules: the class that failed, its line of code."""

import traceback
from pathlib import Path

import torch


def place(error: BaseException) -> str:
    """' (FILE:LINE)' of the innermost frame outside torch and fewstep.export, or nothing."""
    for frame in reversed(traceback.extract_tb(error.__traceback__)):
        file = Path(frame.filename)
        if is_users(file):
            return f" ({file.name}:{frame.lineno})"
    return ""


def is_users(file: Path) -> bool:
    """Whether a file of Python is outside torch and fewstep.export."""
    folders = (Path(torch.__file__).parent, Path(__file__).parent)
    return file.suffix == ".py" and not any(file.is_relative_to(folder) for folder in folders)


def module_name(module: torch.nn.Module) -> str:
    return type(module).__name__
