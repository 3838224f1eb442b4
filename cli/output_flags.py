"""The four output flags that every verb takes. They are read before anything else is imported or parsed."""

from collections.abc import Sequence
from dataclasses import dataclass

FLAGS: dict[str, tuple[tuple[str, ...], str]] = {  # field of OutputOptions -> its flags, allowed anywhere, and help
    "json": (("--json",), "Print one JSON document instead of text: the result, or the error and its fix."),
    "quiet": (("--quiet", "-q"), "Print errors only."),
    "verbose": (("--verbose", "-v"), "Print more messages."),
    "debug": (("--debug",), "Show the traceback of an error."),
}
FIELDS = {flag: field for field, (flags, _) in FLAGS.items() for flag in flags}


@dataclass(frozen=True)
class OutputOptions:
    """The output flags. Results go to stdout; progress, warnings and errors go to stderr.

    json: print one document to stdout, also for an error.
    quiet: print no progress, warnings or text, only errors. The document of --json is still printed.
    verbose: also print the library's log messages of level INFO.
    debug: also print those of level DEBUG, and the traceback of an error.
    """

    json: bool = False
    quiet: bool = False
    verbose: bool = False
    debug: bool = False


def split_flags(arguments: Sequence[str]) -> tuple[OutputOptions, list[str]]:
    """Split a command line into the options for output, such as --json, and all other arguments. Words after `--` are
    never options."""
    end = arguments.index("--") if "--" in arguments else len(arguments)
    asked = {FIELDS[argument] for argument in arguments[:end] if argument in FIELDS}
    rest = [argument for index, argument in enumerate(arguments) if index >= end or argument not in FIELDS]
    return OutputOptions(**dict.fromkeys(asked, True)), rest
