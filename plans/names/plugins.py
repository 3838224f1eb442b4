"""Plugins: code of installed packages, named by an entry point KIND.NAME of the group `fewstep.plugins`.

    [project.entry-points."fewstep.plugins"]
    "source.lerobot" = "fewstep.robots.lerobot.kind:LEROBOT"

fewstep registers some of its own code in this way. Names are read from the packages' metadata, and a plugin is imported
only when a caller names it. What a name means never depends on the order of import paths: if two packages register it,
or if it is also a name of fewstep, using it raises UserError.
"""

from collections.abc import Callable
from functools import cache, partial, wraps
from importlib.metadata import EntryPoint, entry_points
from pathlib import Path
from sys import modules
from typing import Any

from fewstep.plans.errors import NUMERIC, STOPS, UserError, error_line

GROUP = "fewstep.plugins"
OWN = "fewstep"  # the package whose plugins are fewstep's own


@cache
def read_entry_points() -> tuple[EntryPoint, ...]:
    """Return the entry points of all installed packages. Reading them takes 10 ms for 200 packages."""
    return tuple(entry_points(group=GROUP))


@cache
def _read_packages() -> dict[int, tuple[EntryPoint, str]]:
    """Return each entry point with the name of its package, by `id` of the entry point. They are cached because
    importlib reads a file for each name."""
    return {id(point): (point, _package_name(point)) for point in read_entry_points()}


def package_of(plugin: EntryPoint) -> str:
    """Return the name of the package that provides a plugin."""
    known = _read_packages().get(id(plugin))
    return known[1] if known is not None else _package_name(plugin)


def _package_name(plugin: EntryPoint) -> str:
    return "a package" if plugin.dist is None else str(plugin.dist.name)


def is_own(plugin: EntryPoint) -> bool:
    """True for fewstep's own plugins."""
    return package_of(plugin) == OWN


def plugins(kind: str) -> dict[str, tuple[EntryPoint, ...]]:
    """Return all plugins of a kind by name; of several with one name, fewstep's own first. Using a name that several
    packages register raises UserError."""
    found: dict[str, list[EntryPoint]] = {}
    for point in sorted(read_entry_points(), key=lambda point: not is_own(point)):
        if point.name.startswith(f"{kind}."):
            found.setdefault(point.name.removeprefix(f"{kind}."), []).append(point)
    return {name: tuple(each) for name, each in found.items()}


def find_plugin(kind: str, name: str, is_core: bool = False) -> EntryPoint | None:
    """Return the plugin with this name, or None if there is none. is_core: whether fewstep has a function of that name
    without a plugin.

    Raises UserError if the name is ambiguous.
    """
    found = plugins(kind).get(name, ())
    owners = [OWN] * is_core + [package_of(point) for point in found]
    if len(owners) > 1:
        others = [owner for owner in owners if owner != OWN] or owners
        fix = f"uninstall {' or '.join(dict.fromkeys(others))}, or give its entry point another name"
        raise UserError(f"{kind} {name!r} is ambiguous: {kind}.{name} of {' and of '.join(owners)}", fix)
    return found[0] if found else None


def foreign_plugin(kind: str, name: str) -> EntryPoint | None:
    """Return the first plugin with this name from a package other than fewstep, or None if there is none. Nothing is
    imported, and ambiguous names are not reported."""
    return next((plugin for plugin in plugins(kind).get(name, ()) if not is_own(plugin)), None)


def describe_plugin(plugin: EntryPoint) -> str:
    """Describe a plugin for messages: "plugin solver.midpoint of my-package"."""
    return f"plugin {plugin.name} of {package_of(plugin)}"


def fix_of_plugin(plugin: EntryPoint) -> str:
    """Return the fix for a plugin that fails."""
    return "install fewstep again" if is_own(plugin) else f"update {package_of(plugin)}, or uninstall it"


def load_plugin(plugin: EntryPoint) -> object:
    """Import the object to which a plugin's entry point refers.

    Raises UserError, which names the plugin and its package, if that fails, and ModuleNotFoundError if code of fewstep
    itself needs a package that is not installed.
    """
    try:
        return plugin.load()
    except STOPS:
        raise
    except BaseException as error:  # another package's code
        if is_own(plugin) and isinstance(error, ModuleNotFoundError):
            raise  # an extra such as torch is missing: the command line names it
        reason = " ".join(f"{type(error).__name__}: {error}".split())
        raise UserError(f"{describe_plugin(plugin)} does not load ({reason})", fix_of_plugin(plugin)) from error


@cache
def load_plugin_function(plugin: EntryPoint, passes_arithmetic: bool = False) -> Callable[..., Any]:
    """Import a plugin and return its function. An error inside a function of another package becomes a UserError.

    passes_arithmetic: whether to leave arithmetic errors unchanged, for callers that convert them themselves.
    """
    value = load_plugin(plugin)
    if not callable(value):
        raise UserError(f"{describe_plugin(plugin)} is not a function", f"let {plugin.value!r} name a function")
    return value if is_own(plugin) else report_errors_of(plugin, value, passes_arithmetic)


def report_errors_of(
    plugin: EntryPoint, function: Callable[..., Any], passes_arithmetic: bool = False
) -> Callable[..., Any]:
    """Wrap the function of a plugin: its errors become a UserError with the plugin and the line of its file."""
    if isinstance(function, partial):
        inner = report_errors_of(plugin, function.func, passes_arithmetic)
        return partial(inner, *function.args, **function.keywords)
    passed: tuple[type[BaseException], ...] = (UserError, *STOPS, *(NUMERIC if passes_arithmetic else ()))

    @wraps(function)
    def call_function(*arguments: Any, **named: Any) -> Any:
        try:
            return function(*arguments, **named)
        except passed:
            raise
        except BaseException as error:
            home = getattr(modules.get(plugin.module), "__file__", None) or plugin.module
            what = f"{describe_plugin(plugin)} failed: {error_line(error, Path(home))}"
            raise UserError(what, fix_of_plugin(plugin)) from error

    return call_function
