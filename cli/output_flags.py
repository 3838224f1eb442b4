"""The manner of a command: the four flags that every verb takes, read before anything else is imported or parsed."""

from collections.abc import Sequence
from dataclasses import dataclass

FLAGS: dict[str, tuple[tuple[str, ...], str]] = {  # field of Manner -> its flags and help; anywhere in the line
    "json": (("--json",), "Print one JSON document instead of text: the result, or the error and its fix."),
    "quiet": (("--quiet", "-q"), "Print errors only."),
    "verbose": (("--verbose", "-v"), "Print more messages on the way."),
    "debug": (("--debug",), "Show the traceback of an error."),
}
FIELDS = {flag: field for field, (flags, _) in FLAGS.items() for flag in flags}


@dataclass(frozen=True)
class OutputOptions:
    """Results go to stdout, all else (progress, warnings, errors) to stderr.

    json: one document on stdout, for programs, an error included.
    quiet: no progress, no warnings, no text; the exit code tells. A document that was asked for is printed.
    verbose: the library's notes too.
    debug: its debugging notes, and the traceback of an error.
    """

    json: bool = False
    quiet: bool = False
    verbose: bool = False
    debug: bool = False


def split_flags(arguments: Sequence[str]) -> tuple[OutputOptions, list[str]]:
    """The manner that a command line asks for, and the rest of the line. What stands behind `--` is no flag."""
    end = arguments.index("--") if "--" in arguments else len(arguments)
    asked = {FIELDS[argument] for argument in arguments[:end] if argument in FIELDS}
    rest = [argument for index, argument in enumerate(arguments) if index >= end or argument not in FIELDS]
    return OutputOptions(**dict.fromkeys(asked, True)), rest
