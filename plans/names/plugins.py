"""Plugins: code of installed packages that has a name, by an entry point KIND.NAME of the group `fewstep.plugins`.

    [project.entry-points."fewstep.plugins"]
    "source.lerobot" = "fewstep.robots.lerobot.kind:LEROBOT"

fewstep's own plugins are among them. Names are read from the packages' metadata, and nothing of a plugin is imported
before a caller names it. A name has one meaning, whatever the order of import paths: where another package has a name
of fewstep, or two packages have one name, using it is refused.
"""

from collections.abc import Callable
from functools import cache, partial, wraps
from importlib.metadata import EntryPoint, entry_points
from pathlib import Path
from sys import modules
from typing import Any

from fewstep.plans.errors import NUMERIC, UserError
from fewstep.plans.names.error_lines import error_line

GROUP = "fewstep.plugins"
OWN = "fewstep"  # the package whose plugins are fewstep's own


@cache
def read_entry_points() -> tuple[EntryPoint, ...]:
    """The entry points of all packages of this process: to read them takes 10 ms where 200 are installed."""
    return tuple(entry_points(group=GROUP))


def package_of(plugin: EntryPoint) -> str:
    """The name of the package that a plugin comes with."""
    return "a package" if plugin.dist is None else str(plugin.dist.name)


def is_own(plugin: EntryPoint) -> bool:
    """True for the plugins that fewstep itself brings."""
    return package_of(plugin) == OWN


def plugins(kind: str) -> dict[str, tuple[EntryPoint, ...]]:
    """All plugins of a kind by name, fewstep's own first. A name that several have is refused where it is used."""
    found: dict[str, list[EntryPoint]] = {}
    for each in sorted(read_entry_points(), key=lambda each: not is_own(each)):
        if each.name.startswith(f"{kind}."):
            found.setdefault(each.name.removeprefix(f"{kind}."), []).append(each)
    return {name: tuple(each) for name, each in found.items()}


def find_plugin(kind: str, name: str, is_core: bool = False) -> EntryPoint | None:
    """The plugin of a name, or None. `is_core` says that the name is fewstep's without a plugin.

    UserError where the name has several meanings.
    """
    found = plugins(kind).get(name, ())
    owners = [OWN] * is_core + [package_of(each) for each in found]
    if len(owners) > 1:
        others = [owner for owner in owners if owner != OWN] or owners
        fix = f"uninstall {' or '.join(dict.fromkeys(others))}, or give its entry point another name"
        raise UserError(f"{kind} {name!r} has {len(owners)} meanings: {kind}.{name} of {' and of '.join(owners)}", fix)
    return found[0] if found else None


def foreign_plugin(kind: str, name: str) -> EntryPoint | None:
    """The plugin of another package that a name means. Nothing is imported, and no collision is refused."""
    return next((each for each in plugins(kind).get(name, ()) if not is_own(each)), None)


def describe_plugin(plugin: EntryPoint) -> str:
    """A plugin in words, for messages: "plugin solver.midpoint of my-package"."""
    return f"plugin {plugin.name} of {package_of(plugin)}"


def fix_of_plugin(plugin: EntryPoint) -> str:
    """The fix for a plugin that fails."""
    return "install fewstep again" if is_own(plugin) else f"update {package_of(plugin)}, or uninstall it"


def load_plugin(plugin: EntryPoint) -> object:
    """The value that an entry point names. UserError, naming the plugin and its package, where its import fails."""
    try:
        return plugin.load()
    except (Exception, SystemExit) as error:  # another package's code
        reason = " ".join(f"{type(error).__name__}: {error}".split())
        raise UserError(f"{describe_plugin(plugin)} does not load ({reason})", fix_of_plugin(plugin)) from error


@cache
def load_plugin_function(plugin: EntryPoint, passes_arithmetic: bool = False) -> Callable[..., Any]:
    """The function that an entry point names; an error inside another package's is a UserError of one line.

    `passes_arithmetic`: errors of arithmetic are raised as they are, for callers that have words for them.
    """
    value = load_plugin(plugin)
    if not callable(value):
        raise UserError(f"{describe_plugin(plugin)} is no function", f"name a function as {plugin.value!r}")
    return value if is_own(plugin) else report_errors_of(plugin, value, passes_arithmetic)


def report_errors_of(
    plugin: EntryPoint, function: Callable[..., Any], passes_arithmetic: bool = False
) -> Callable[..., Any]:
    """The function of a plugin, whose errors become a UserError that names the plugin and the line of its file."""
    if isinstance(function, partial):
        inner = report_errors_of(plugin, function.func, passes_arithmetic)
        return partial(inner, *function.args, **function.keywords)
    passed: tuple[type[Exception], ...] = (UserError, *NUMERIC) if passes_arithmetic else (UserError,)

    @wraps(function)
    def called(*arguments: Any, **named: Any) -> Any:
        try:
            return function(*arguments, **named)
        except passed:
            raise
        except (Exception, SystemExit) as error:
            home = getattr(modules.get(plugin.module), "__file__", None) or plugin.module
            what = f"{describe_plugin(plugin)} failed: {error_line(error, Path(home))}"
            raise UserError(what, fix_of_plugin(plugin)) from error

    return called
