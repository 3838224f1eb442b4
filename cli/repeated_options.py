"""Options of a command line that take one value and are given twice. The parser would silently take the last value."""

from collections.abc import Sequence
from typing import Any, get_type_hints

from fewstep.cli.generate import Verb, is_argument, option_flags, options_of, sequence_type
from fewstep.runtime.options import option_fields


def find_repeated_option(verb: Verb, arguments: Sequence[str]) -> str | None:
    """Return the first option that takes a single value but occurs more than once on a command line, or None."""
    kind: Any = options_of(verb)
    hints = get_type_hints(kind)
    given = [argument.partition("=")[0] for argument in arguments]
    for field in option_fields(kind):
        hint = hints[field.name]
        if hint is bool or sequence_type(hint) or (is_argument(field) and field is option_fields(kind)[0]):
            continue
        flags = option_flags(field)
        if sum(given.count(flag) for flag in flags) > 1:
            return flags[0]
    return None
