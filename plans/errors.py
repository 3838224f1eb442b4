"""The one exception a user can cause, and the one a user can ask for."""


class UserError(Exception):
    """A failure with a known cause: `what` names the thing, `fix` says what to do. Always one printable line, whatever
    a damaged file has put into it."""

    def __init__(self, what: str, fix: str) -> None:
        self.what, self.fix = _one_line(what), _one_line(fix)
        super().__init__(f"{self.what}; {self.fix}")


class Cancelled(Exception):
    """A run was stopped because its caller said so."""


def _one_line(text: str) -> str:
    return "".join(c if c.isprintable() else repr(c)[1:-1] for c in " ".join(text.split()))
