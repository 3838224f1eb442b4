"""What there is to choose from: every grid with what it does, and what its parentheses may set."""

import inspect
import re
from dataclasses import dataclass

from fewstep.plans import grids
from fewstep.plans.name import DEFAULT_GRID, Value, parameters

SENTENCE = re.compile(r".+?\.(?=\s\D|$)")  # "et al. 2022" does not end one


@dataclass(frozen=True)
class GridListing:
    """`about` is the first sentence of its documentation; `parameters` with their defaults, by name, None where the
    schedule says; `needs` are those without a default. `is_default`: what a plan's name without a grid means."""

    name: str
    about: str
    parameters: dict[str, Value | None]
    needs: tuple[str, ...]
    aliases: tuple[str, ...]
    is_default: bool


def listing() -> tuple[GridListing, ...]:
    """Every grid, in the order of `grids.__all__`."""
    return tuple(_listed(name) for name in grids.__all__)


def _listed(name: str) -> GridListing:
    grid = getattr(grids, name)
    about = SENTENCE.match(" ".join((inspect.getdoc(grid) or "").split()))
    known = parameters(grid)
    needs = tuple(key for key, each in known.items() if each.default is inspect.Parameter.empty)
    return GridListing(
        name=name,
        about=about[0] if about else "",
        parameters={key: each.default for key, each in known.items() if key not in needs},
        needs=needs,
        aliases=tuple(alias for alias, text in grids.ALIASES.items() if text.partition("(")[0] == name),
        is_default=name == DEFAULT_GRID,
    )
