"""Kinds of folders that export reads: `source.NAME` in the entry point group `fewstep.plugins` is a `FolderKind`."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from importlib.metadata import EntryPoint
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

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

if TYPE_CHECKING:
    from torch import nn

    from fewstep.export.sources.torch_module import TorchSource

Option = Literal["call", "spec", "statistics", "without"]


@dataclass(frozen=True)
class ObjectOrigin:
    """The function FILE.py:FUNCTION that returned an object, the digest of its file, and the arguments of the object's
    call that the user gives."""

    label: str
    sha256: str
    call: Mapping[str, Any]


@dataclass(frozen=True)
class FolderKind:
    """The format in which a project saves its denoisers to folders.

    holds: returns whether a folder has this format, judged by files other than its weights.
    load: loads the source in such a folder. Raises UserError if a file is missing or of another type. The options that
        `takes` names are keyword arguments, and absent unless the user gives them.
    weights: returns the names of the weight files to fetch from a hub, given a folder with the other files.
    half_weights: returns the names of files in half precision, to fetch for files of `weights` that the hub lacks. The
        folder then contains those that it has.
    takes: the options of `load`. `call` are the arguments of a pipeline's call, by name; `spec` is the path of a JSON
        file; `statistics` is the name of one of the data sets whose statistics the folder stores; `without` are names
        of cameras that the robot lacks.
    load_object: returns the source of an object that a user's function returned, such as a pipeline, or None for an
        object that is not of this kind.
    outlines: returns functions that return the denoisers of a folder without weights, by name, the denoiser of the last
        steps first. They may be fewer than `load` finds. Options that change weights are compared with them before
        the folder is loaded.
    load_file: loads the source in one file of weights, with the configs of such a folder: `load_file(FILE, FOLDER)` and
        the options of `takes`. None if this kind has no such files.
    """

    holds: Callable[[Path], bool]
    load: Callable[..., Source]
    weights: Callable[[Path], list[str]]
    half_weights: Callable[[Path], list[str]] | None = None
    takes: tuple[Option, ...] = ()
    load_object: "Callable[[object, ObjectOrigin], TorchSource | None] | None" = None
    load_file: Callable[..., Source] | None = None
    outlines: "Callable[[Path], Mapping[str, Callable[[], nn.Module]]] | None" = None


def find_folder_kind(folder: Path) -> FolderKind | None:
    """Return the kind of a folder, or None if export cannot read it.

    A folder that fewstep itself reads, such as a diffusers pipeline, is never passed to another package's plugin.
    Raises UserError for a folder that plugins of two packages can read, and for a plugin that fails.
    """
    if not folder.is_dir():
        return None
    every = _read_plugins()
    for plugin in filter(is_own, every):
        kind = _kind(plugin)
        if kind.holds(folder):
            find_plugin("source", plugin.name.partition(".")[2])  # refuses another package's plugin of that name
            return kind
    holding = {plugin: kind for plugin in every if not is_own(plugin) and (kind := _kind(plugin)).holds(folder)}
    if len(holding) > 1:
        named = " and ".join(map(describe_plugin, holding))
        raise UserError(
            f"{folder} can be read by several plugins: {named}", f"uninstall {' or '.join(map(package_of, holding))}"
        )
    for plugin, kind in holding.items():
        find_plugin("source", plugin.name.partition(".")[2])
        return kind
    return None


def load_object(value: object, origin: ObjectOrigin) -> "TorchSource | None":
    """Return the source of an object that a user's function returned, or None if it is of no kind of fewstep's own."""
    kinds = (_kind(plugin) for plugin in filter(is_own, _read_plugins()))
    loads = (kind.load_object for kind in kinds if kind.load_object is not None)
    return next((source for load in loads if (source := load(value, origin)) is not None), None)


def _read_plugins() -> list[EntryPoint]:
    return [plugin for same_name in plugins("source").values() for plugin in same_name]


def _kind(plugin: EntryPoint) -> FolderKind:
    """Return the FolderKind of a plugin. Errors in another package's functions name that plugin."""
    kind = load_plugin(plugin)
    if not isinstance(kind, FolderKind):
        raise UserError(f"{describe_plugin(plugin)} is not a FolderKind", f"name a FolderKind as {plugin.value!r}")
    if is_own(plugin):
        return kind
    half_weights, load_file, outlines = kind.half_weights, kind.load_file, kind.outlines
    return replace(
        kind,
        outlines=None if outlines is None else report_errors_of(plugin, outlines),
        load_file=None if load_file is None else report_errors_of(plugin, load_file),
        holds=report_errors_of(plugin, kind.holds),
        load=report_errors_of(plugin, kind.load),
        weights=report_errors_of(plugin, kind.weights),
        half_weights=None if half_weights is None else report_errors_of(plugin, half_weights),
    )
