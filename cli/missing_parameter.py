"""The error for a required argument or option that a command line lacks: its meaning, and an example."""

from fewstep.cli.errors import CommandLineError
from fewstep.cli.generate import Verb, field_help, options_of
from fewstep.cli.verbs import VERBS


def missing_parameter(error: Exception, name: str, verb: Verb) -> CommandLineError | None:
    """Return the error for a parser's error about a missing parameter of the verb `name`; None for other errors."""
    parameter = getattr(error, "param", None)
    if type(error).__name__ != "MissingParameter" or parameter is None:
        return None
    flags = "/".join(parameter.opts) if parameter.opts[0].startswith("-") else parameter.name.upper()
    fix = f"for example: {VERBS[name].example}"
    meaning, _, _ = field_help(options_of(verb)).get(parameter.name, "").partition(". ")
    return CommandLineError(f"{name} needs {flags}" + f" ({meaning.rstrip('.')})" * bool(meaning), fix)
