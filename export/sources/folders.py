"""Kinds of folders that plugins read: `source.NAME` of the group `fewstep.plugins` is a `FolderKind`."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

from fewstep.export.spec import Source
from fewstep.plans.errors import UserError
from fewstep.plans.names.named_code import loaded, plugins


@dataclass(frozen=True)
class FolderKind:
    """The form in which a project saves its denoisers.

    holds: whether a folder is of this kind, by files other than its weights.
    load: the source of such a folder. UserError where a file is missing or of another kind.
    weights: the files of weights below such a folder, by its other files: what to fetch from a hub.
    load_with_statistics: the source whose samples and conditions are normalised by the statistics of a data set, which
        `export --statistics` names. None for kinds that store no statistics by data set.
    """

    holds: Callable[[Path], bool]
    load: Callable[[Path], Source]
    weights: Callable[[Path], list[str]]
    load_with_statistics: Callable[[Path, str], Source] | None = None


def kind_of(folder: Path) -> FolderKind | None:
    """The kind of a folder; None where no plugin reads it."""
    return next((kind for kind in _kinds() if kind.holds(folder)), None)


def _kinds() -> Iterator[FolderKind]:
    for name, plugin in plugins("source").items():
        kind = loaded(plugin)
        if not isinstance(kind, FolderKind):
            raise UserError(f"plugin source.{name} is no FolderKind", f"name a FolderKind as {plugin.value!r}")
        yield kind
