"""What a plan's name may begin or end with: functions of `plans.solvers` and `plans.grids`, those of plugins, and code.

A plugin `solver.NAME` or `grid.NAME` (`plans.plugins`) adds a name. Code (`plans.named_code`) needs none.
"""

import re
from collections.abc import Callable, Mapping
from functools import cache, partial
from types import ModuleType
from typing import Any

from fewstep.plans import grids, solvers, token_samplers
from fewstep.plans.errors import UserError
from fewstep.plans.plugins import loaded, plugins
from fewstep.plans.solvers.published import orders_of

MODULES: Mapping[str, ModuleType] = {"solver": solvers, "grid": grids, "sampler": token_samplers}


def names_of(kind: str) -> list[str]:
    """The names of a kind, the core's and those of plugins, without other names for the same."""
    added = (name for family, function in _plugged(kind).items() for name in _orders(family, function))
    return sorted({*MODULES[kind].__all__, *added})


def is_name(kind: str, name: str) -> bool:
    """Whether a name is one of `names_of(kind)`."""
    return name in MODULES[kind].__all__ or found(kind, name) is not None


def found(kind: str, name: str) -> Callable[..., Any] | None:
    """The function of a name; None where it has none. The order of a family is a name of its own."""
    there = MODULES[kind]
    if name in there.__all__:
        function: Callable[..., Any] = getattr(there, name)
        return function
    if not name.isidentifier() or kind == "sampler":
        return None
    family, order = name, re.fullmatch(r"(\w+?)_(\d+)", name)
    entries = plugins(kind)
    if name not in entries and order is not None:
        family = order[1]
    if family not in entries:
        return None
    function = _function(kind, family)
    orders = orders_of(function)
    if family == name:
        return None if orders else function
    return partial(function, order=int(order[2])) if order is not None and int(order[2]) in orders else None


def family(kind: str, name: str) -> Callable[..., Any] | None:
    """The function of a family, whose orders are names; None of anything else."""
    function = getattr(MODULES[kind], name, None)
    if function is None and kind != "sampler" and name.isidentifier() and name in plugins(kind):
        function = _function(kind, name)
    return function if orders_of(function) else None


def _plugged(kind: str) -> dict[str, Callable[..., Any]]:
    return {} if kind == "sampler" else {name: _function(kind, name) for name in plugins(kind)}


@cache
def _loaded(kind: str, name: str, value: str) -> Callable[..., Any]:
    function = loaded(plugins(kind)[name])
    if not callable(function):
        raise UserError(f"plugin {kind}.{name} is no function", f"name a function as {value!r}")
    return function


def _function(kind: str, name: str) -> Callable[..., Any]:
    return _loaded(kind, name, plugins(kind)[name].value)


def _orders(name: str, function: Callable[..., Any]) -> list[str]:
    return [f"{name}_{order}" for order in orders_of(function)] or [name]
