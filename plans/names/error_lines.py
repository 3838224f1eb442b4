"""Format errors of user-supplied code as one line."""

import traceback
from pathlib import Path


def error_line(error: BaseException, file: Path) -> str:
    """Return the error as one line, with the number of the last line of `file` in its traceback."""
    lines = [frame.lineno for frame in traceback.extract_tb(error.__traceback__) if Path(frame.filename) == file]
    if isinstance(error, SyntaxError):
        lines = [error.lineno]
    text = (str(error).splitlines() or [""])[0]
    place = f" (line {lines[-1]})" if lines else ""
    return f"{type(error).__name__}: {text}{place}"
