"""The two exceptions for callers, `UserError` and `Cancelled`; text of other errors, cleaned before it is printed."""

LONGEST = 2000  # characters of a printed text: the names of a bundle may have millions
END = 400  # characters kept at the end of the text, where a message says what is wrong
NUMERIC = (ZeroDivisionError, OverflowError)  # of arithmetic: who compiles a plan has words for them


class UserError(Exception):
    """A failure with a known cause: `what` names the thing, `fix` says what to do. Always one printable line, whatever
    a damaged file has put into it."""

    def __init__(self, what: str, fix: str) -> None:
        self.what, self.fix = _escape_line(what), _escape_line(fix)
        super().__init__(f"{self.what}; {self.fix}")

    def __reduce__(self) -> tuple[type["UserError"], tuple[str, str]]:
        """Workers raise it in other processes."""
        return type(self), (self.what, self.fix)


class Cancelled(Exception):
    """A run was stopped because its caller said so."""


def printable(text: str) -> str:
    """Text that is safe for a terminal: unprintable characters (line ends, escape sequences) are escaped, and a long
    text loses its middle. All text from a bundle, a file or a file's name is printed through this."""
    if len(text) > LONGEST:
        left_out = f" [{len(text) - LONGEST} characters left out] "
        text = text[: LONGEST - END] + left_out + text[-END:]
    return text if text.isprintable() else "".join(c if c.isprintable() else repr(c)[1:-1] for c in text)


def first_line(error: BaseException) -> str:
    """The first line of a library's error, without the pages that follow; its class where it says nothing."""
    return (str(error).strip().splitlines() or [type(error).__name__])[0]


def _escape_line(text: str) -> str:
    return printable(" ".join(text.split()))
