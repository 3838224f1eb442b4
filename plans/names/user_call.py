"""Calls that a text names: a function of a plugin or of user-supplied code, with arguments."""

import inspect
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from fewstep.plans.errors import UserError
from fewstep.plans.names.plugins import find_plugin, load_plugin_function, plugins
from fewstep.plans.names.user_code import load_function, split_code


@dataclass(frozen=True)
class NamedCall:
    """A function that the user named in a text, and the arguments in the text. They are passed after the caller's
    arguments.

    text: the function's name and the arguments, without folders.
    files: the files of its code, and files among its arguments.
    """

    text: str
    function: Callable[..., Any]
    arguments: tuple[str, ...] = ()
    files: tuple[Path, ...] = ()


def resolve_call(kind: str, text: str, own: int) -> NamedCall:
    """Return the call that a text names: NAME[:ARGUMENTS] of a plugin `KIND.NAME`, or FILE.py:FUNCTION[:ARGUMENTS].

    Arguments are texts, separated by commas. They follow the `own` arguments that the caller passes. Raises UserError
    for an unknown name, and for a number of arguments that the function does not take.
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
        inspect.signature(function).bind(*[None] * own, *arguments)
    except TypeError as error:
        raise UserError(f"{kind} {title} cannot be called: {error}", f"write it as {title}:ARGUMENT,ARGUMENT") from None
    read = [Path(each) for each in ([] if code is None else [code[0]]) + list(arguments)]
    plain = ",".join(Path(each).name if Path(each).is_file() else each for each in arguments)
    files = tuple(each for each in read if each.is_file())
    return NamedCall(f"{title}:{plain}" if plain else title, function, arguments, files)
