"""The option --size: free sizes of a bundle, or of a whole that is tiled."""

from collections.abc import Sequence

from fewstep.plans.errors import UserError
from fewstep.runtime.sizes import LARGEST, NAME

DIGITS = 4000  # beyond which Python reads no number


def parse_sizes(texts: Sequence[str]) -> dict[str, int]:
    """ "height=96" to {"height": 96}."""
    sizes: dict[str, int] = {}
    for text in texts:
        name, equals, number = text.partition("=")
        is_number = number.isascii() and number.isdecimal() and bool(number.strip("0"))
        if not (equals and NAME.fullmatch(name) and is_number):
            raise UserError(f"size {text!r} is not NAME=NUMBER", "write it as --size height=96")
        if name in sizes:
            raise UserError(f"size {name!r} is given twice", "leave one of them out")
        if len(number) > DIGITS or int(number) > LARGEST:
            raise UserError(f"size {text!r} is too large", f"give at most {LARGEST}")
        sizes[name] = int(number)
    return sizes
