"""Generate a command from a verb, a function of (options: a frozen dataclass, progress). No option is written twice.

Every command also takes the flags of `output_flags`, which `main` handles, and --dry-run if the verb supports it.

The first field without a default is the command's argument. Every other field is an option, unless it is positional.
Its help is the line `name: text` in the docstring of the class or a base class. The metadata of a field sets the rest:

- `{"short": "-o"}` adds a short flag.
- `{"as_text": True}`: the field gets the text of a path, since a Path lacks a leading "./".
- `{"positional": True}`: a further argument of the command, in the order of the fields.
- `{"whole": True}`: commas are part of a value. Otherwise a field of type `tuple[str, ...]` takes values separated by
  commas. The option may also be given several times.
- `{"choices": function}` appends to the help the names that the function returns.
- `{"expert": True}` shows the option only in --help-all.
- `{"sets": names}`: a flag that sets other options. They are refused with it, also at their defaults.
"""

import dataclasses
import inspect
import re
from collections.abc import Callable, Collection, Sequence
from typing import Annotated, Any, Literal, get_args, get_origin, get_type_hints

import typer

from fewstep.cli import output_flags
from fewstep.cli.outcome import Outcome
from fewstep.plans.errors import UserError
from fewstep.plans.guidance import Pag
from fewstep.plans.names.plan_reference import NamedReference
from fewstep.runtime.options import option_fields
from fewstep.runtime.progress import Progress

DRY_RUN_HELP = "Check everything and print the work to do, without doing it."
CONTEXT = "context"  # the parameter in which typer passes where values come from
Verb = Callable[[Any, Progress], Outcome]
DryRun = Callable[[Any], Outcome]


def make_command(
    verb: Verb,
    progress: Progress,
    done: Callable[[Outcome], None],
    dry_run: DryRun | None = None,
    shows_all: bool = False,
) -> Callable[..., None]:
    """Return a function with a signature for typer: one parameter for each field of the verb's options.

    `done` receives the outcome of the verb, or of its dry run with --dry-run. With `shows_all` the help includes expert
    options.
    """
    options_type = options_of(verb)
    hints, texts = get_type_hints(options_type), field_help(options_type)
    fields = option_fields(options_type)
    first = next((field.name for field in fields if is_argument(field)), None)
    parameters = [
        _make_parameter(
            field, hints[field.name], texts.get(field.name, ""), field.name == first or is_positional(field), shows_all
        )
        for field in fields
    ]
    if dry_run is not None:
        parameters.append(flag_parameter("dry_run", ("--dry-run",), DRY_RUN_HELP))

    if any("sets" in field.metadata for field in fields):
        parameters.append(inspect.Parameter(CONTEXT, inspect.Parameter.KEYWORD_ONLY, annotation=typer.Context))

    def run(**values: Any) -> None:
        for field in fields:
            if "sets" in field.metadata and values[field.name]:
                _refuse_options_on_command_line(values[CONTEXT], field)
        options = options_type(
            **{field.name: _convert_value(field, values[field.name], hints[field.name]) for field in fields}
        )
        done(dry_run(options) if dry_run is not None and values["dry_run"] else verb(options, progress))

    run.__doc__ = _summary(options_type)
    return set_parameters(run, [*parameters, *manner_parameters()])


def _refuse_options_on_command_line(context: typer.Context, flag: "dataclasses.Field[Any]") -> None:
    """Raise UserError if the command line has an option that a flag sets."""
    for name in flag.metadata["sets"]:
        source = context.get_parameter_source(name)
        if source is not None and source.name == "COMMANDLINE":
            raise UserError(f"--{flag.name} already sets --{name}", f"leave out --{name} or --{flag.name}")


def set_parameters(function: Callable[..., None], parameters: Sequence[inspect.Parameter]) -> Callable[..., None]:
    """Set the parameters of a function's signature, which typer reads. Returns the function."""
    function.__signature__ = inspect.Signature(parameters)  # type: ignore[attr-defined]
    function.__annotations__ = {parameter.name: parameter.annotation for parameter in parameters}
    return function


def options_of(verb: Verb) -> type:
    """Return the dataclass of a verb's options."""
    options: type = next(iter(get_type_hints(verb).values()))
    return options


def manner_parameters() -> list[inspect.Parameter]:
    """Return the parameters of the flags that every command takes."""
    return [flag_parameter(field, names, text) for field, (names, text) in output_flags.FLAGS.items()]


def flag_parameter(name: str, flags: tuple[str, ...], text: str) -> inspect.Parameter:
    """Return the parameter of a switch that is off by default."""
    annotation = Annotated[bool, typer.Option(*flags, help=text, show_default=False)]
    return inspect.Parameter(name, inspect.Parameter.KEYWORD_ONLY, default=False, annotation=annotation)


def field_help(options_type: type) -> dict[str, str]:
    """Return the help of each field, from `name: text` lines in the docstrings of a class and its bases.

    A text continues over the following lines if they are indented further.
    """
    names = {field.name for field in dataclasses.fields(options_type)}
    texts: dict[str, str] = {}
    for base in reversed(options_type.__mro__[:-1]):
        texts |= _parse_field_texts(inspect.cleandoc(base.__doc__ or ""), names)
    for field in dataclasses.fields(options_type):
        if field.name in texts and "choices" in field.metadata:
            texts[field.name] = f"{texts[field.name].removesuffix('.')}: {', '.join(field.metadata['choices']())}."
    return texts


def _parse_field_texts(document: str, names: Collection[str]) -> dict[str, str]:
    texts: dict[str, str] = {}
    name = None
    for line in document.splitlines():
        match = re.match(r"\s*(\w+): +(.*)", line)
        if match and match[1] in names:
            name = match[1]
            texts[name] = match[2].strip()
        elif name and line.startswith(" "):
            texts[name] += " " + line.strip()
        else:
            name = None
    return texts


def _summary(options_type: type) -> str:
    """Return the docstring up to the first field."""
    texts = field_help(options_type)
    document = inspect.cleandoc(options_type.__doc__ or "")
    starts = [found.start() for name in texts if (found := re.search(rf"^\s*{name}: ", document, re.MULTILINE))]
    return document[: min(starts, default=len(document))].strip()


def is_argument(field: "dataclasses.Field[Any]") -> bool:
    """Return whether a field has no default, and so is the command's argument."""
    return field.default is dataclasses.MISSING and field.default_factory is dataclasses.MISSING


def is_positional(field: "dataclasses.Field[Any]") -> bool:
    """Return whether a field is an argument of the command after the first one."""
    return bool(field.metadata.get("positional"))


def _make_parameter(
    field: "dataclasses.Field[Any]", hint: Any, text: str, is_argument: bool, shows_all: bool
) -> inspect.Parameter:
    default = field.default_factory() if callable(field.default_factory) else field.default
    hint = str if field.metadata.get("as_text") else hint
    if sequence_type(hint):
        default = default if default is dataclasses.MISSING else [str(value) for value in default] or None
        hint = list[str] if default is not None else list[str] | None
    if {Pag, NamedReference} & {hint, *get_args(hint)}:  # guidance and plans, which the options parse themselves
        hint, default = str | None, str(default) if isinstance(default, NamedReference) else default
    if is_argument:
        annotation: Any = Annotated[hint, typer.Argument(help=text, metavar=field.name.upper(), show_default=False)]
    else:
        flags = option_flags(field)
        if hint is bool:
            flags[0] = f"{flags[0]}/--no-{flags[0][2:]}"
        text, metavar = _help_and_metavar(hint, text)
        is_hidden = bool(field.metadata.get("expert")) and not shows_all
        shown = default not in (None, "")
        option = typer.Option(*flags, help=text, metavar=metavar, show_default=shown, hidden=is_hidden)
        annotation = Annotated[hint, option]
    return inspect.Parameter(
        field.name,
        inspect.Parameter.KEYWORD_ONLY,
        default=inspect.Parameter.empty if default is dataclasses.MISSING else default,
        annotation=annotation,
    )


def option_flags(field: "dataclasses.Field[Any]") -> list[str]:
    """Return the flags of an option: the long one, and the short one if it has one."""
    short = [field.metadata["short"]] if "short" in field.metadata else []
    return [f"--{field.name.replace('_', '-')}", *short]


def _help_and_metavar(hint: Any, text: str) -> tuple[str, str | None]:
    """Return the help and the metavar (None for the default) of an option with this type and help text. If the text
    does not name every allowed word, a list of them is appended."""
    parts = (hint, *get_args(hint))
    words = next((get_args(part) for part in parts if get_origin(part) is Literal), ())
    if words:
        return (text if all(word in text for word in words) else f"{text} One of {', '.join(words)}."), "<word>"
    return text, "<list>" if any(get_origin(part) is list for part in parts) else None


def sequence_type(hint: Any) -> Any:
    """Return the tuple type in a hint, which may be optional; None for any other hint."""
    return next((part for part in (hint, *get_args(hint)) if get_origin(part) is tuple), None)


def _convert_value(field: "dataclasses.Field[Any]", value: Any, hint: Any) -> Any:
    """Convert a parsed value to the type of its field. A sequence is a list of texts, each split at commas unless the
    field is `whole`. Raises UserError for an empty option or an item of another type."""
    kind = sequence_type(hint)
    if kind is None or (value is None and type(None) in get_args(hint)):
        return value
    if value is None or field.metadata.get("whole"):
        return tuple(value or ())
    item, option = get_args(kind)[0], f"--{field.name.replace('_', '-')}"
    parts = [part.strip() for text in value for part in text.split(",") if part.strip()]
    if value and not parts:
        raise UserError(f"{option} has no value", "give one, or leave the option out")
    try:
        return tuple(item(part) for part in parts)
    except ValueError as error:
        what = f"{option} {','.join(parts)} is not a list of {item.__name__}"
        raise UserError(what, "separate the values by commas") from error
