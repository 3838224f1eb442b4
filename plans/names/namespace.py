"""Functions that a plan's name may call: those of the core, those of plugins, and code of one's own.

A plugin `solver.NAME` or `grid.NAME` (`plans.names.named_code`) adds a name. Code of one's own needs none.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cache
from importlib.metadata import EntryPoint
from types import ModuleType
from typing import Any

from fewstep.plans.errors import UserError
from fewstep.plans.names.named_code import loaded, plugins
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
        return sorted({*self.core, *self._plugins()})

    def functions(self) -> dict[str, Function]:
        """All functions by their names, those of plugins among them."""
        return {name: function for name in self.names() if (function := self.found(name)) is not None}

    def aliases_of(self, name: str) -> tuple[str, ...]:
        """The other names of a function, whatever parameters they set."""
        return tuple(alias for alias, text in self.aliases.items() if text.partition("(")[0] == name)

    def __contains__(self, name: str) -> bool:
        return name in self.core or name in self._plugins()

    def found(self, name: str) -> Function | None:
        """The function of a name; None where it has none."""
        if name in self.core:
            function: Function = getattr(self.module, name)
            return function
        return _loaded(self.kind, name, self._plugins()[name].value) if name in self._plugins() else None

    def orders(self, name: str) -> tuple[int, ...]:
        """The orders of a family of the core, whose members are names; none of anything else."""
        return () if name in self.core else orders_of(getattr(self.module, name, None))

    def _plugins(self) -> Mapping[str, EntryPoint]:
        return plugins(self.kind) if self.has_plugins else {}


@cache
def _loaded(kind: str, name: str, value: str) -> Function:
    function = loaded(plugins(kind)[name])
    if not callable(function) or orders_of(function):
        raise UserError(f"plugin {kind}.{name} is no function of one {kind}", f"name one as {value!r}")
    return function
