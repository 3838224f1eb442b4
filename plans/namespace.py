"""Functions that a plan's name may call: those of the core, those of plugins, and code of one's own.

A plugin `solver.NAME` or `grid.NAME` (`plans.plugins`) adds a name. Code (`plans.named_code`) needs none.
"""

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cache, partial
from types import ModuleType
from typing import Any

from fewstep.plans.errors import UserError
from fewstep.plans.plugins import loaded, plugins
from fewstep.plans.published import orders_of

Function = Callable[..., Any]


@dataclass(frozen=True)
class Namespace:
    """The names of a kind: `module` has those of the core in `__all__`, and other names for them in `ALIASES`.

    checked: what a function of one's own made, under a label for messages. UserError for anything else.
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
        """The core's and those of plugins, without other names for the same."""
        families = {name: self._plugged(name) for name in self._plugins()}
        added = ([f"{name}_{order}" for order in orders_of(each)] or [name] for name, each in families.items())
        return sorted({*self.core, *(name for names in added for name in names)})

    def functions(self) -> dict[str, Function]:
        """All functions by their names, those of plugins among them."""
        return {name: function for name in self.names() if (function := self.found(name)) is not None}

    def aliases_of(self, name: str) -> tuple[str, ...]:
        """The other names of a function, whatever parameters they set."""
        return tuple(alias for alias, text in self.aliases.items() if text.partition("(")[0] == name)

    def __contains__(self, name: str) -> bool:
        return name in self.core or self.found(name) is not None

    def found(self, name: str) -> Function | None:
        """The function of a name; None where it has none. The order of a family is a name of its own."""
        if name in self.core:
            function: Function = getattr(self.module, name)
            return function
        if not name.isidentifier():
            return None
        family, order, entries = name, re.fullmatch(r"(\w+?)_(\d+)", name), self._plugins()
        if name not in entries and order is not None:
            family = order[1]
        if family not in entries:
            return None
        function = self._plugged(family)
        orders = orders_of(function)
        if family == name:
            return None if orders else function
        return partial(function, order=int(order[2])) if order is not None and int(order[2]) in orders else None

    def family(self, name: str) -> Function | None:
        """The function of a family, whose orders are names; None of anything else."""
        function = getattr(self.module, name, None)
        if function is None and name.isidentifier() and name in self._plugins():
            function = self._plugged(name)
        return function if orders_of(function) else None

    def _plugins(self) -> Mapping[str, Any]:
        return plugins(self.kind) if self.has_plugins else {}

    def _plugged(self, name: str) -> Function:
        return _loaded(self.kind, name, self._plugins()[name].value)


@cache
def _loaded(kind: str, name: str, value: str) -> Function:
    function = loaded(plugins(kind)[name])
    if not callable(function):
        raise UserError(f"plugin {kind}.{name} is no function", f"name a function as {value!r}")
    return function
