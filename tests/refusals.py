"""Refusals: a test asserts the object that a refusal names and the fix, and leaves its other words free."""

from collections.abc import Iterator
from contextlib import contextmanager

import pytest

from fewstep.plans.errors import UserError

Words = str | tuple[str, ...]


def assert_refusal(refused: UserError | str, names: Words, fix: Words = ()) -> None:
    """Assert that a refusal names an object, and that its fix has some words.

    refused: the error, or the line that a command prints, "fewstep: WHAT; FIX".
    names: the object, or several, as the message quotes them.
    fix: the words of the fix that a user types or reads; without them, the refusal only has to have a fix.
    """
    what, _, then = str(refused).removeprefix("fewstep: ").partition("; ")
    if isinstance(refused, UserError):
        what, then = refused.what, refused.fix
    assert "\n" not in str(refused).rstrip("\n") and then, f"not one line with a fix: {refused}"
    for word in (names,) if isinstance(names, str) else names:
        assert word in what, f"{word!r} is not named in: {what}"
    for word in (fix,) if isinstance(fix, str) else fix:
        assert word in then, f"{word!r} is not in the fix: {then}"


@contextmanager
def refuses(names: Words, fix: Words = ()) -> Iterator[None]:
    """Run a block that raises a UserError, as `assert_refusal` asserts it."""
    with pytest.raises(UserError) as caught:
        yield
    assert_refusal(caught.value, names, fix)
