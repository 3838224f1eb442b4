"""Functions that a plan's name may call: those of the core, those of plugins, and code of one's own.

A plugin `solver.NAME` or `grid.NAME` (`plans.names.plugins`) adds a name. Code of one's own needs none.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cache, partial, wraps
from importlib.metadata import EntryPoint
from types import ModuleType
from typing import Any

from fewstep.plans.errors import UserError
from fewstep.plans.names.plugins import (
    describe_plugin,
    find_plugin,
    foreign_plugin,
    is_own,
    load_plugin_function,
    plugins,
)
from fewstep.plans.publication import orders_of

Function = Callable[..., Any]


@dataclass(frozen=True)
class Namespace:
    """The names of a kind: `module` has those of the core in `__all__`, and other names for them in `ALIASES`.

    checked: what a function that is not fewstep's own made, under its name for messages. UserError for anything else.
    suggested: names of other kinds that stand at the same place of a plan's name.
    """

    kind: str
    module: ModuleType
    checked: Callable[[str, Any], Any]
    has_plugins: bool = True
    suggested: tuple[str, ...] = ()

    @property
    def core(self) -> list[str]:
        names: list[str] = self.module.__all__
        return names

    @property
    def aliases(self) -> Mapping[str, str]:
        """Other names, each with the call that it stands for."""
        aliases: Mapping[str, str] = self.module.ALIASES
        return aliases

    def names(self) -> list[str]:
        """The core's and those of plugins, without other names for the same. Nothing is imported."""
        return sorted({*self.core, *self._plugins()})

    def own_functions(self) -> dict[str, Function]:
        """All functions that fewstep brings by their names, those of its own plugins among them."""
        functions = {name: getattr(self.module, name) for name in self.core}
        guests = {name: each[0] for name, each in self._plugins().items() if is_own(each[0])}
        return dict(sorted((functions | {name: _function(each) for name, each in guests.items()}).items()))

    def aliases_of(self, name: str) -> tuple[str, ...]:
        """The other names of a function, whatever parameters they set."""
        return tuple(alias for alias, text in self.aliases.items() if text.partition("(")[0] == name)

    def __contains__(self, name: str) -> bool:
        return name in self.core or name in self._plugins()

    def find(self, name: str) -> Function | None:
        """The function of a name; None where it has none. UserError where it has several meanings."""
        self.check_meaning(name)
        if name in self.core:
            function: Function = getattr(self.module, name)
            return function
        plugin = next(iter(self._plugins().get(name, ())), None)
        if plugin is None:
            return None
        function = _function(plugin)
        return function if is_own(plugin) else checked_function(function, self.checked, describe_plugin(plugin))

    def check_meaning(self, name: str) -> None:
        """UserError where a plugin has the name of another plugin, or of a function, an alias or a family here."""
        if self.has_plugins:
            is_core = name in self.core or name in self.aliases or bool(self.orders(name))
            find_plugin(self.kind, name, is_core)

    def foreign(self, name: str) -> EntryPoint | None:
        """The plugin of another package that a name means; None for fewstep's own names. Nothing is imported."""
        return foreign_plugin(self.kind, name) if self.has_plugins and name not in self.core else None

    def orders(self, name: str) -> tuple[int, ...]:
        """The orders of a family of the core, whose members are names; none of anything else."""
        return () if name in self.core else orders_of(getattr(self.module, name, None))

    def _plugins(self) -> Mapping[str, tuple[EntryPoint, ...]]:
        return plugins(self.kind) if self.has_plugins else {}


def _function(plugin: EntryPoint) -> Function:
    function = load_plugin_function(plugin, passes_arithmetic=True)
    if orders_of(function):
        raise UserError(f"{describe_plugin(plugin)} is no function of one order", f"name one as {plugin.value!r}")
    return function


@cache
def checked_function(function: Function, check: Callable[[str, Any], Any], label: str) -> Function:
    """A function whose result is checked, under a label for messages."""
    if isinstance(function, partial):
        return partial(checked_function(function.func, check, label), *function.args, **function.keywords)

    @wraps(function)
    def checked(*arguments: Any, **named: Any) -> Any:
        return check(label, function(*arguments, **named))

    return checked
