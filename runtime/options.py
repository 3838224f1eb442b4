"""The base class of all verbs' options: converts values to their declared types, and writes the command line."""

import dataclasses
from collections.abc import Callable, Collection
from dataclasses import dataclass
from numbers import Real
from os import PathLike, fspath
from pathlib import Path
from shlex import quote
from types import UnionType
from typing import TYPE_CHECKING, Any, Literal, Union, get_args, get_origin, get_type_hints

from fewstep.plans.argument_checks import as_integer
from fewstep.plans.errors import UserError
from fewstep.plans.guidance import Guidance, Pag, to_text
from fewstep.plans.names.guidance_text import from_text
from fewstep.plans.names.plan_reference import FileReference, NamedReference, parse_plan_text

if TYPE_CHECKING:
    from fewstep.runtime.bundle.reading import Bundle


class Options:
    """Base class of each verb's options, which are frozen dataclasses.

    By the type of the field, text is converted to a path, a guidance or a plan reference, and a path to text. One
    value, a list or an array is converted to a tuple. Raises UserError for a value that is not one of a Literal's, and
    for a set or another collection without an order where the type is a tuple.
    """

    def __post_init__(self) -> None:
        for name, hint in get_type_hints(type(self)).items():
            value = _convert_numbers(name, _convert(name, getattr(self, name), hint), hint)
            if get_origin(hint) is Literal and value not in get_args(hint):
                raise UserError(f"{name} cannot be {value!r}", f"choose from {', '.join(get_args(hint))}")
            object.__setattr__(self, name, value)

    def command_line(
        self, verb: str, always: Collection[str] = (), of: str = "BUNDLE", keeps_folders: bool = False
    ) -> str:
        """Return the command line that gives these options. It contains those in `always`, and those that differ from
        their defaults.

        `of` is the text of the first argument. A path is reduced to its last part, because folders are private, unless
        `keeps_folders`, for a command that only this user sees. Options with `metadata={"unrecorded": True}` do not
        change results, and are left out. Those with `metadata={"is_text": True}` hold text, in which a slash separates
        no folders. Those with `metadata={"positional": True}` have no flag. Values are quoted for a shell, which would
        split a name at a space and expand a pattern.
        """
        words = [f"fewstep {verb} {of}"]
        for field in option_fields(type(self))[1:]:
            value = getattr(self, field.name)
            if field.metadata.get("positional"):
                words.append(quote(str(value)))
            elif field.name in always or (value != field.default and not field.metadata.get("unrecorded")):
                flag = f"--{field.name.replace('_', '-')}"
                each = value if field.metadata.get("whole") else [value]  # commas may be part of a value
                text_of: Callable[[Any], str] = _free_text if field.metadata.get("is_text") else _text
                text_of = str if keeps_folders and isinstance(value, Path | FileReference | str) else text_of
                for one in each:
                    words += (
                        [flag] if one is True else [f"--no-{flag[2:]}"] if one is False else [flag, quote(text_of(one))]
                    )
        return " ".join(words)


@dataclass(frozen=True)
class BundleOptions(Options):
    """Base class of the options of verbs that read a bundle.

    bundle: The folder of the bundle.
    """

    bundle: Path

    def open(self) -> "Bundle":
        """Return the opened bundle. Raises UserError if there is none, or if its manifest cannot be read."""
        from fewstep.runtime.bundle.reading import open_bundle  # imports numpy, which the command's help does not need

        return open_bundle(self.bundle)


def option_fields(kind: type) -> "tuple[dataclasses.Field[Any], ...]":
    """Return the fields of an options class in the order of its constructor. Keyword-only ones, which are shared by
    verbs, come last."""
    return tuple(sorted(dataclasses.fields(kind), key=lambda field: field.kw_only is True))


def _text(value: Any) -> str:
    if isinstance(value, tuple):
        return ",".join(item if isinstance(item, str) else _text(item) for item in value)
    if isinstance(value, Guidance):
        return to_text(value) or str(value)
    if isinstance(value, float):
        return f"{value:g}" if float(f"{value:g}") == value else repr(value)
    return "@".join(map(_strip_folder, str(value).split("@")))  # a plan's name may have a file on both sides


def _free_text(text: str) -> str:
    """Return a text unchanged, except a path to a file in NAME=@FILE."""
    name, at, path = text.partition("=@")
    return f"{name}{at}{Path(path).name}" if at and name.isidentifier() else text


def _strip_folder(text: str) -> str:
    """Return the last name of a path. A text NAME=PATH or NAME:PATH keeps its NAME, unless that is a drive's letter."""
    for mark in "=:":
        name, separator, path = text.partition(mark)
        if separator and name.isidentifier() and (mark == "=" or len(name) > 1):
            return f"{name}{mark}{Path(path).name}"
    return Path(text).name


def _is_text(value: Any) -> bool:
    return isinstance(value, str | PathLike)


def _convert_numbers(name: str, value: Any, hint: Any) -> Any:
    """Return integers of any type as ints, also in a tuple. Raises UserError for other values where the type is int,
    and for a boolean where it is a number."""
    kinds = set(get_args(hint)) if get_origin(hint) in (Union, UnionType) else {hint}
    if tuple[int, ...] in kinds and isinstance(value, tuple):
        return tuple(_convert_numbers(name, item, int) for item in value)
    is_one = tuple[int, ...] in kinds and not hasattr(value, "__iter__")  # such as numpy's booleans
    if (int in kinds or is_one) and float not in kinds and not (value is None and type(None) in kinds):
        number = as_integer(value)
        if number is None:
            raise UserError(f"{name} {value!r} is not a whole number", f"give {name} as a whole number")
        return number
    if float in kinds and isinstance(value, bool):
        raise UserError(f"{name} {value!r} is not a number", f"give {name} as a number")
    return value


def _convert(name: str, value: Any, hint: Any) -> Any:
    kinds = get_args(hint) if get_origin(hint) in (Union, UnionType) else (hint,)
    if any(get_origin(kind) is tuple for kind in kinds):
        value = value.tolist() if hasattr(value, "tolist") else value  # of an array
        if isinstance(value, list | range):
            return tuple(value)
        if hasattr(value, "__iter__") and not isinstance(value, str | tuple):
            raise UserError(f"{name} {value!r:.40} is not a list", f"give {name} as a list")
        return (value,) if isinstance(value, str | Real) else value
    if Pag in kinds:
        return from_text(value) if isinstance(value, str) else value
    if NamedReference in kinds:
        if not _is_text(value):
            return value
        return parse_plan_text(value) if isinstance(value, str) else FileReference(Path(value))
    if Path in kinds:
        return Path(value) if _is_text(value) else value
    return fspath(value) if str in kinds and isinstance(value, PathLike) else value
