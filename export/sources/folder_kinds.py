"""Kinds of folders that plugins can read: `source.NAME` in the entry point group `fewstep.plugins` is a
`FolderKind`."""

from collections.abc import Callable
from dataclasses import dataclass, replace
from importlib.metadata import EntryPoint
from pathlib import Path

from fewstep.export.sources.diffusers.files import INDEX
from fewstep.export.spec import Source
from fewstep.plans.errors import UserError
from fewstep.plans.names.plugins import (
    describe_plugin,
    find_plugin,
    is_own,
    load_plugin,
    package_of,
    plugins,
    report_errors_of,
)


@dataclass(frozen=True)
class FolderKind:
    """The format in which a project saves its denoisers to folders.

    holds: returns whether a folder has this format, judged by files other than its weights.
    load: loads the source in such a folder. Raises UserError if a file is missing or of another type.
    weights: returns the names of the weight files to fetch from a hub, given a folder with the other files.
    load_with_statistics: loads the source with samples and conditions normalised by the statistics of one data set,
        which `export --statistics` names. None for formats that store no statistics by data set.
    """

    holds: Callable[[Path], bool]
    load: Callable[[Path], Source]
    weights: Callable[[Path], list[str]]
    load_with_statistics: Callable[[Path, str], Source] | None = None


def find_folder_kind(folder: Path) -> FolderKind | None:
    """Return the kind of a folder that a plugin can read, or None if no plugin can.

    A folder that fewstep itself reads, such as a diffusers pipeline, is never passed to another package's plugin.
    Raises UserError for a folder that plugins of two packages can read, and for a plugin that fails.
    """
    if (folder / INDEX).is_file():
        return None
    found = [plugin for same_name in plugins("source").values() for plugin in same_name]
    for plugin in filter(is_own, found):
        kind = _kind(plugin)
        if kind.holds(folder):
            find_plugin("source", plugin.name.partition(".")[2])  # refuses another package's plugin of that name
            return kind
    holding = {plugin: kind for plugin in found if not is_own(plugin) and (kind := _kind(plugin)).holds(folder)}
    if len(holding) > 1:
        named = " and ".join(map(describe_plugin, holding))
        raise UserError(
            f"{folder} can be read by several plugins: {named}", f"uninstall {' or '.join(map(package_of, holding))}"
        )
    for plugin, kind in holding.items():
        find_plugin("source", plugin.name.partition(".")[2])
        return kind
    return None


def _kind(plugin: EntryPoint) -> FolderKind:
    """Return the FolderKind of a plugin. Errors in another package's functions name that plugin."""
    kind = load_plugin(plugin)
    if not isinstance(kind, FolderKind):
        raise UserError(f"{describe_plugin(plugin)} is not a FolderKind", f"name a FolderKind as {plugin.value!r}")
    if is_own(plugin):
        return kind
    with_statistics = kind.load_with_statistics
    return replace(
        kind,
        holds=report_errors_of(plugin, kind.holds),
        load=report_errors_of(plugin, kind.load),
        weights=report_errors_of(plugin, kind.weights),
        load_with_statistics=None if with_statistics is None else report_errors_of(plugin, with_statistics),
    )
