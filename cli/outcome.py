"""The outcome of a verb: one value for programs, and the same as text. Only this module prints either."""

import json
import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import msgspec

from fewstep.cli.output_flags import OutputOptions
from fewstep.plans.errors import UserError, printable

if TYPE_CHECKING:
    from rich.console import RenderableType

    from fewstep.cli.next_command import NextCommand


@dataclass(frozen=True)
class Outcome:
    """The result of a command.

    value: the document of --json: structs, dataclasses, dicts and their contents.
    shown: the text output: lines, tables and trees. A string is one line.
    code: the exit code; 1 if the answer is negative, as for a damaged bundle.
    then: the command to run next, printed as the last line.
    error: why the command fails although it has results, which are printed before it; --json prints the error alone.
    """

    value: object
    shown: "tuple[RenderableType, ...]" = ()
    code: int = 0
    then: "NextCommand | None" = None
    error: UserError | None = None


def print_outcome(outcome: Outcome, manner: OutputOptions) -> None:
    """Print the outcome of a command to stdout: as JSON, as text, or not at all with --quiet. Raises its error."""
    if manner.json and outcome.error is None:
        print(to_json(outcome.value))
    elif not manner.json and not manner.quiet:
        for part in outcome.shown:
            if isinstance(part, str):
                print(printable(part))
            else:
                from fewstep.cli.tables import print_table

                print_table(part)
        if outcome.then is not None:
            print(printable(str(outcome.then)))
    if outcome.error is not None:
        raise outcome.error


def pluralize(number: int, noun: str) -> str:
    """Return a number with its noun: "1 plan", "2 plans"."""
    return f"{number} {noun}" if number == 1 else f"{number} {noun}s"


def to_json(value: object) -> str:
    """Return one JSON document in printable ASCII. NaN and infinity become null.

    Raises TypeError for keys other than strings and numbers.
    """
    content = msgspec.to_builtins(value, enc_hook=_encode_other, str_keys=True)
    return json.dumps(_escape_bytes(content), indent=2).replace("\x7f", r"\u007f")


def _encode_other(value: Any) -> object:
    """Encode values without a JSON type: paths, and numpy scalars."""
    return value.item() if hasattr(value, "item") else str(value)


def _escape_bytes(value: Any) -> object:
    """Prepare a value for JSON: escape bytes that are not valid text, which a path may contain, and replace NaN and
    infinity by None."""
    if isinstance(value, str):
        return value.encode(errors="backslashreplace").decode()
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, dict):
        return {_escape_bytes(key): _escape_bytes(each) for key, each in value.items()}
    return [_escape_bytes(item) for item in value] if isinstance(value, list | tuple) else value
