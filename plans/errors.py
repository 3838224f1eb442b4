"""The two exceptions for callers, `UserError` and `Cancelled`, and functions that make text safe to print."""

import traceback
from os import PathLike
from pathlib import Path
from shlex import quote

LONGEST = 2000  # characters of a printed text, since the names of a bundle may have millions
END = 400  # characters kept at the end of a text, where a message usually states the problem
STOPS = (KeyboardInterrupt, GeneratorExit)  # no failures of the code that they pass through
NUMERIC = (ZeroDivisionError, OverflowError)  # arithmetic errors, which become a UserError where a plan is compiled


class UserError(Exception):
    """A failure that the user can understand and resolve. `what` says what is wrong with which object, and `fix` says
    what to do about it.

    `fix` is "" if no remedy is known. The message is always one printable line, even if it quotes a damaged file.
    """

    def __init__(self, what: str, fix: str) -> None:
        self.what, self.fix = _escape_line(what), _escape_line(fix)
        super().__init__(join_fix(self.what, self.fix))

    def __reduce__(self) -> tuple[type["UserError"], tuple[str, str]]:
        """Support pickling, because worker processes raise this error."""
        return type(self), (self.what, self.fix)


class Cancelled(Exception):
    """Raised when the caller stops a run before its end."""


def join_fix(what: str, fix: str) -> str:
    """Return a failure and its fix as one line; only the failure if `fix` is ""."""
    return f"{what}; {fix}" if fix else what


def printable(text: str) -> str:
    """Return text that is safe for a terminal: unprintable characters (line ends, escape sequences) are escaped, and
    the middle of a long text is cut. Pass all text from a bundle, a file or a file's name through this function."""
    if len(text) > LONGEST:
        left_out = f" [{len(text) - LONGEST} characters left out] "
        text = text[: LONGEST - END] + left_out + text[-END:]
    return text if text.isprintable() else "".join(c if c.isprintable() else repr(c)[1:-1] for c in text)


def quote_path(path: str | PathLike[str]) -> str:
    """Return a path as a word of a command line in a POSIX shell. A path that begins with a dash gets ./ before it,
    since it would be read as an option."""
    text = str(path)
    return quote(f"./{text}" if text.startswith("-") else text)


def first_line(error: BaseException) -> str:
    """Return the first line of a library's error message, or the name of its class if the message is empty."""
    return (str(error).strip().splitlines() or [type(error).__name__])[0]


def one_line(error: BaseException) -> str:
    """Return a library's error message without its line breaks, cut to 200 characters."""
    return " ".join(str(error).split())[:200]


def error_line(error: BaseException, file: Path) -> str:
    """Return an error of user-supplied code as one line, with the last line of `file` in its traceback."""
    lines = [frame.lineno for frame in traceback.extract_tb(error.__traceback__) if Path(frame.filename) == file]
    if isinstance(error, SyntaxError):
        lines = [error.lineno]
    text = (str(error).splitlines() or [""])[0]
    place = f" (line {lines[-1]})" if lines else ""
    return f"{type(error).__name__}: {text}{place}"


def _escape_line(text: str) -> str:
    return printable(" ".join(text.split()))
