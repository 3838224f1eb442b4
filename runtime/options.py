"""The base of all verbs' options converts a caller's texts, paths and lists to the declared types."""

from os import PathLike, fspath
from pathlib import Path
from types import UnionType
from typing import Any, Union, get_args, get_origin, get_type_hints


class Options:
    """Base of each verb's options, a frozen dataclass: a text may stand for a path, a path for a text that may be one,
    and one value, or a list, for a tuple of values."""

    def __post_init__(self) -> None:
        for name, hint in get_type_hints(type(self)).items():
            object.__setattr__(self, name, _as(getattr(self, name), hint))


def _as(value: Any, hint: Any) -> Any:
    kinds = get_args(hint) if get_origin(hint) in (Union, UnionType) else (hint,)
    if any(get_origin(kind) is tuple for kind in kinds):
        if isinstance(value, list):
            return tuple(value)
        return (value,) if isinstance(value, str | int | float) else value
    if Path in kinds:
        return Path(value) if isinstance(value, str | PathLike) else value
    return fspath(value) if str in kinds and isinstance(value, PathLike) else value
