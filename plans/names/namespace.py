"""The functions that a plan's name may call: core functions, plugins, and user-supplied code.

A plugin `solver.NAME` or `grid.NAME` (`plans.names.plugins`) adds a name. User-supplied code needs no registration.
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
    """The names of all functions of one kind, such as solvers. `module` lists fewstep's own in `__all__`, and aliases
    in `ALIASES`.

    checked: checks the result of a plugin or of user-supplied code. It takes the function's name (for messages) and the
        result, and returns the result. It raises UserError for an invalid result.
    suggested: further names that are valid in the same place of a plan's name, for messages.
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
        """The aliases, each with the call that it abbreviates."""
        aliases: Mapping[str, str] = self.module.ALIASES
        return aliases

    def names(self) -> list[str]:
        """Return the names of the core and of plugins, without aliases. Nothing is imported."""
        return sorted({*self.core, *self._plugins()})

    def own_functions(self) -> dict[str, Function]:
        """Return all functions of fewstep by name, including its own plugins."""
        functions = {name: getattr(self.module, name) for name in self.core}
        own_plugins = {name: each[0] for name, each in self._plugins().items() if is_own(each[0])}
        return dict(sorted((functions | {name: _function(each) for name, each in own_plugins.items()}).items()))

    def aliases_of(self, name: str) -> tuple[str, ...]:
        """Return the aliases of a function, including those that set parameters."""
        return tuple(alias for alias, text in self.aliases.items() if text.partition("(")[0] == name)

    def __contains__(self, name: str) -> bool:
        return name in self.core or name in self._plugins()

    def find(self, name: str) -> Function | None:
        """Return the function with this name, or None if the name is unknown. Raises UserError for an ambiguous
        name."""
        self.check_meaning(name)
        if name in self.core:
            function: Function = getattr(self.module, name)
            return function
        plugin = next(iter(self._plugins().get(name, ())), None)
        if plugin is None:
            return None
        function = _function(plugin)
        return function if is_own(plugin) else add_result_check(function, self.checked, describe_plugin(plugin))

    def check_meaning(self, name: str) -> None:
        """Raise UserError if a plugin has the name of another plugin, or of a function, alias or family of the core."""
        if self.has_plugins:
            is_core = name in self.core or name in self.aliases or bool(self.orders(name))
            find_plugin(self.kind, name, is_core)

    def foreign(self, name: str) -> EntryPoint | None:
        """Return the plugin of another package with this name, or None for fewstep's names. Nothing is imported."""
        return foreign_plugin(self.kind, name) if self.has_plugins and name not in self.core else None

    def orders(self, name: str) -> tuple[int, ...]:
        """Return the orders of a core family, or () for any other name."""
        return () if name in self.core else orders_of(getattr(self.module, name, None))

    def _plugins(self) -> Mapping[str, tuple[EntryPoint, ...]]:
        return plugins(self.kind) if self.has_plugins else {}


def _function(plugin: EntryPoint) -> Function:
    function = load_plugin_function(plugin, passes_arithmetic=True)
    if orders_of(function):
        raise UserError(
            f"{describe_plugin(plugin)} is a family of orders, not one function",
            f"let {plugin.value!r} name a function of one order",
        )
    return function


@cache
def add_result_check(function: Function, check: Callable[[str, Any], Any], label: str) -> Function:
    """Return a function that calls `function` and passes its result through `check`. `label` names the function in
    messages."""
    if isinstance(function, partial):
        return partial(add_result_check(function.func, check, label), *function.args, **function.keywords)

    @wraps(function)
    def call_and_check(*arguments: Any, **named: Any) -> Any:
        return check(label, function(*arguments, **named))

    return call_and_check
