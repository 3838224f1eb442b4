"""The outcome of a verb: one value for programs, the same in words for people. Only here is either printed."""

import json
import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import msgspec

from fewstep.cli.output_flags import OutputOptions
from fewstep.plans.errors import printable

if TYPE_CHECKING:
    from rich.console import RenderableType

    from fewstep.cli.next_command import NextCommand


@dataclass(frozen=True)
class Outcome:
    """The end of a verb.

    value: what --json prints: structs, dataclasses, dicts and what they hold.
    shown: what people see: lines of text, tables and trees. A text is one line.
    code: the exit code; 1 where the answer to what was asked is no.
    then: the command that comes next, which people see as the last line.
    """

    value: object
    shown: "tuple[RenderableType, ...]" = ()
    code: int = 0
    then: "NextCommand | None" = None


def print_outcome(outcome: Outcome, manner: OutputOptions) -> None:
    """Print an outcome to stdout."""
    if manner.json:
        print(to_json(outcome.value))
    elif not manner.quiet:
        for part in outcome.shown:
            if isinstance(part, str):
                print(printable(part))
            else:
                from fewstep.cli.tables import print_table

                print_table(part)
        if outcome.then is not None:
            print(printable(str(outcome.then)))


def pluralize(number: int, noun: str) -> str:
    """ "1 plan", "2 plans"."""
    return f"{number} {noun}" if number == 1 else f"{number} {noun}s"


def to_json(value: object) -> str:
    """One JSON document, of printable ASCII: NaN and infinity become null. TypeError for keys but texts and numbers."""
    content = msgspec.to_builtins(value, enc_hook=_encode_other, str_keys=True)
    return json.dumps(_escape_bytes(content), indent=2).replace("\x7f", r"\u007f")


def _encode_other(value: Any) -> object:
    """Values that JSON has no type for: paths, and numbers of numpy."""
    return value.item() if hasattr(value, "item") else str(value)


def _escape_bytes(value: Any) -> object:
    """The value with bytes that are no text escaped, as a path may have them."""
    if isinstance(value, str):
        return value.encode(errors="backslashreplace").decode()
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, dict):
        return {_escape_bytes(key): _escape_bytes(each) for key, each in value.items()}
    return [_escape_bytes(each) for each in value] if isinstance(value, list | tuple) else value
