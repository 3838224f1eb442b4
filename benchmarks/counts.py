"""Numbers of things, as argparse reads them."""

from argparse import ArgumentTypeError


def positive(text: str) -> int:
    """A number of things of which there must be some."""
    number = int(text)
    if number < 1:
        raise ArgumentTypeError(f"{number} is less than 1")
    return number


def several(text: str) -> tuple[int, ...]:
    """Such numbers, with commas."""
    return tuple(map(positive, text.split(",")))
