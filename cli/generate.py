"""Make a command from a verb: a function of (options: a frozen dataclass, progress). No option is written twice.

Every command takes the flags of `manner` too, on which `main` acts, and --dry-run where the verb has one.

The first field without a default is the command's argument, every other field an option. Help comes from lines
`name: text` of the docstrings of the class and its bases, a short flag from the field's metadata:
`field(metadata={"short": "-o"})`. A field of type `tuple[str, ...]` takes its values with commas, or the option several
times; `metadata={"whole": True}` says that commas are part of a value. `metadata={"choices": names}`, a function, ends
the help with the names it returns. Help leaves fields of `metadata={"expert": True}` to --help-all.
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
from fewstep.runtime.options import option_fields
from fewstep.runtime.progress import Progress

DRY_RUN_HELP = "Check everything and print the work to do, without doing it."
Verb = Callable[[Any, Progress], Outcome]
DryRun = Callable[[Any], Outcome]


def make_command(
    verb: Verb,
    progress: Progress,
    done: Callable[[Outcome], None],
    dry_run: DryRun | None = None,
    shows_all: bool = False,
) -> Callable[..., None]:
    """A function with the signature that typer reads: one parameter for each field of the verb's options.

    `done` is given what the verb, or with --dry-run its dry run, returns. With `shows_all` help has the options for
    experts too.
    """
    options_type = options_of(verb)
    hints, texts = get_type_hints(options_type), field_help(options_type)
    fields = option_fields(options_type)
    argument = next((field.name for field in fields if is_argument(field)), None)
    parameters = [
        _make_parameter(field, hints[field.name], texts.get(field.name, ""), field.name == argument, shows_all)
        for field in fields
    ]
    if dry_run is not None:
        parameters.append(flag_parameter("dry_run", ("--dry-run",), DRY_RUN_HELP))

    def run(**values: Any) -> None:
        options = options_type(
            **{field.name: _convert_value(field, values[field.name], hints[field.name]) for field in fields}
        )
        done(dry_run(options) if dry_run is not None and values["dry_run"] else verb(options, progress))

    run.__doc__ = _summary(options_type)
    return set_parameters(run, [*parameters, *manner_parameters()])


def set_parameters(function: Callable[..., None], parameters: Sequence[inspect.Parameter]) -> Callable[..., None]:
    """The function with the signature of these parameters, which typer reads."""
    function.__signature__ = inspect.Signature(parameters)  # type: ignore[attr-defined]
    function.__annotations__ = {parameter.name: parameter.annotation for parameter in parameters}
    return function


def options_of(verb: Verb) -> type:
    """The dataclass of a verb's options."""
    options: type = next(iter(get_type_hints(verb).values()))
    return options


def manner_parameters() -> list[inspect.Parameter]:
    """The flags that every command takes."""
    return [flag_parameter(field, names, text) for field, (names, text) in output_flags.FLAGS.items()]


def flag_parameter(name: str, flags: tuple[str, ...], text: str) -> inspect.Parameter:
    """A switch that is off unless it is given."""
    annotation = Annotated[bool, typer.Option(*flags, help=text, show_default=False)]
    return inspect.Parameter(name, inspect.Parameter.KEYWORD_ONLY, default=False, annotation=annotation)


def field_help(options_type: type) -> dict[str, str]:
    """`name: text` lines of the docstrings of a class and its bases; a text goes on over lines that are indented
    further."""
    names = {field.name for field in dataclasses.fields(options_type)}
    texts: dict[str, str] = {}
    for each in reversed(options_type.__mro__[:-1]):
        texts |= _parse_field_texts(inspect.cleandoc(each.__doc__ or ""), names)
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
    """The docstring up to the first field."""
    texts = field_help(options_type)
    document = inspect.cleandoc(options_type.__doc__ or "")
    starts = [found.start() for name in texts if (found := re.search(rf"^\s*{name}: ", document, re.MULTILINE))]
    return document[: min(starts, default=len(document))].strip()


def is_argument(field: "dataclasses.Field[Any]") -> bool:
    """A field without a default."""
    return field.default is dataclasses.MISSING and field.default_factory is dataclasses.MISSING


def _make_parameter(
    field: "dataclasses.Field[Any]", hint: Any, text: str, is_argument: bool, shows_all: bool
) -> inspect.Parameter:
    default = field.default_factory() if callable(field.default_factory) else field.default
    if _sequence_type(hint):
        default = default if default is dataclasses.MISSING else [str(value) for value in default] or None
        hint = list[str] if default is not None else list[str] | None
    if Pag in get_args(hint):  # which the options read
        hint = str | None
    if is_argument:
        annotation: Any = Annotated[hint, typer.Argument(help=text, metavar=field.name.upper(), show_default=False)]
    else:
        flags = [f"--{field.name.replace('_', '-')}"]
        if hint is bool:
            flags = [f"{flags[0]}/--no-{flags[0][2:]}"]
        if "short" in field.metadata:
            flags.append(field.metadata["short"])
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


def _help_and_metavar(hint: Any, text: str) -> tuple[str, str | None]:
    """The help and the metavar of an option, short enough for --help: a text that does not have all words of a choice
    ends with them."""
    parts = (hint, *get_args(hint))
    words = next((get_args(part) for part in parts if get_origin(part) is Literal), ())
    if words:
        return (text if all(word in text for word in words) else f"{text} One of {', '.join(words)}."), "<word>"
    return text, "<list>" if any(get_origin(part) is list for part in parts) else None


def _sequence_type(hint: Any) -> Any:
    """The type of a sequence, which may be optional; None for another hint."""
    return next((part for part in (hint, *get_args(hint)) if get_origin(part) is tuple), None)


def _convert_value(field: "dataclasses.Field[Any]", value: Any, hint: Any) -> Any:
    """The value of a field. A sequence arrives as a list of texts, each with commas between its values, unless they are
    part of a value."""
    kind = _sequence_type(hint)
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
        raise UserError(what, "write values with commas") from error
