"""The one exception a user can cause."""


class UserError(Exception):
    """A failure with a known cause: `what` names the thing, `fix` says what to do. Printed as one line."""

    def __init__(self, what: str, fix: str) -> None:
        super().__init__(f"{what}; {fix}")
        self.what = what
        self.fix = fix
