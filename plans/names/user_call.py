"""Calls that a text names: a function of a plugin or of user-supplied code, with arguments."""

import inspect
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from types import NoneType, UnionType
from typing import Any, Union, get_args, get_origin

from fewstep.plans.errors import UserError
from fewstep.plans.names.plugins import find_plugin, load_plugin_function, plugins
from fewstep.plans.names.user_code import load_function, split_code

BOOLEANS = {"true": True, "1": True, "false": False, "0": False}


@dataclass(frozen=True)
class NamedCall:
    """A function that the user named in a text, and the arguments in the text. They are passed after the caller's
    arguments.

    text: the function's name and the arguments, without folders.
    arguments: texts, numbers or booleans, as the parameters are annotated.
    files: the files of its code, and files among its arguments.
    """

    text: str
    function: Callable[..., Any]
    arguments: tuple[Any, ...] = ()
    files: tuple[Path, ...] = ()


def resolve_call(kind: str, text: str, own: int) -> NamedCall:
    """Return the call that a text names: NAME[:ARGUMENTS] of a plugin `KIND.NAME`, or FILE.py:FUNCTION[:ARGUMENTS].

    Arguments are separated by commas, and follow the `own` arguments that the caller passes. They are texts, or numbers
    and booleans for parameters that are annotated so. Raises UserError for an unknown name, for a number of arguments
    that the function does not take, and for an argument that its annotation does not allow.
    """
    code = split_code(text)
    name, _, rest = text.partition(":") if code is None else code[1].partition(":")
    arguments = tuple(rest.split(",")) if rest else ()
    if code is None:
        plugin = find_plugin(kind, name)
        if plugin is None:
            fix = f"give one of {', '.join(plugins(kind))}, or FILE.py:FUNCTION"
            raise UserError(f"unknown {kind} {name!r}", fix)
        function, title = load_plugin_function(plugin), name
    else:
        function, title = load_function(code[0], name), f"{Path(code[0]).name}:{name}"
    try:
        bound = inspect.signature(function).bind(*[None] * own, *arguments)
    except (TypeError, ValueError) as error:  # compiled code may have no signature
        raise UserError(f"{kind} {title} cannot be called: {error}", f"write it as {title}:ARGUMENT,ARGUMENT") from None
    read_as = _argument_types(function, bound)[own:]
    read = [Path(argument) for argument in ([] if code is None else [code[0]]) + list(arguments)]
    plain = ",".join(Path(argument).name if Path(argument).is_file() else argument for argument in arguments)
    files = tuple(path for path in read if path.is_file())
    values = tuple(_read_argument(*each, f"{kind} {title}") for each in zip(arguments, read_as, strict=True))
    return NamedCall(f"{title}:{plain}" if plain else title, function, values, files)


def _argument_types(function: Callable[..., Any], bound: inspect.BoundArguments) -> list[Any]:
    """Return the annotation of the parameter that takes each argument; None without one that can be read."""
    try:
        parameters = inspect.signature(function, eval_str=True).parameters  # also those of a class
    except Exception:  # an annotation without a value, such as a name that only type checkers import
        return [None] * len(bound.args)
    kinds = [(name, each.kind) for name, each in bound.signature.parameters.items() if name in bound.arguments]
    repeats = {name: len(bound.arguments[name]) for name, kind in kinds if kind is inspect.Parameter.VAR_POSITIONAL}
    hints = {
        name: None if parameter.annotation is parameter.empty else parameter.annotation
        for name, parameter in parameters.items()
    }
    return [hints[name] for name, _ in kinds for _ in range(repeats.get(name, 1))]


def _read_argument(text: str, annotation: Any, where: str) -> Any:
    """Return an argument as the type of its parameter's annotation; as text for all types but numbers and booleans."""
    if get_origin(annotation) in (Union, UnionType) and len(types := {*get_args(annotation)} - {NoneType}) == 1:
        (annotation,) = types
    if annotation is bool:
        if text.casefold() not in BOOLEANS:
            raise UserError(f"{where} cannot take {text!r} where it needs a boolean", "give true or false")
        return BOOLEANS[text.casefold()]
    if annotation not in (int, float):
        return text
    try:
        return annotation(text)
    except ValueError:
        noun = "an integer" if annotation is int else "a number"
        raise UserError(f"{where} cannot take {text!r} where it needs {noun}", f"give {noun}") from None
