"""The publication of a solver, given as a decorator of its function: `@Published(...)`. Lists, docs and tests read it.

A family of orders is one function with a parameter `order`. Plan names have a separate solver for each order: the
function `unipc` gives unipc_1 to unipc_4.
"""

from collections.abc import Callable, Mapping
from dataclasses import KW_ONLY, dataclass
from functools import partial
from typing import Any, TypeVar

from fewstep.plans.spec import DenoiserFacts
from fewstep.plans.symbol import Lin
from fewstep.plans.tracer import Solver

Function = TypeVar("Function", bound=Callable[..., Lin])
FACTS = "facts"  # the attribute of a solver's function


@dataclass(frozen=True)
class Published:
    """Facts of one solver with default parameters.

    It decorates the solver's function, `(trace, times, *, parameters) -> sample`, whose name is its name in plans.

    Args:
        order: the order of convergence between two times that are neither pure noise nor clean. The tests measure it,
            also on uneven grids. None for solvers of distilled denoisers, which do not converge to a trajectory of the
            data, and for exact inverses.
        rows: K, the number of state rows, each the size of a sample.
        made_for: a denoiser that the solver works with, if it does not work with every one.
        distilled: whether it is for distilled denoisers, which know only the times of their distillation.
        tied: whether it is for consistency functions that return x itself at sigma_min.
        fitted: whether its parameters hold fitted numbers. With their defaults it is the same as another solver.
        lacks: parameters of a family's function that this order does not have.
    """

    paper: str
    _: KW_ONLY
    order: int | None
    rows: int
    made_for: DenoiserFacts | None = None
    distilled: bool = False
    tied: bool = False
    fitted: bool = False
    lacks: tuple[str, ...] = ()

    def __call__(self, function: Function) -> Function:
        return _attach_facts(self, function)


UNPUBLISHED = Published("", order=None, rows=0)


def published_orders(orders: Mapping[int, Published]) -> Callable[[Function], Function]:
    """Decorate a function that implements several published solvers, one for each value of its argument `order`. The
    argument has no default."""
    return partial(_attach_facts, dict(orders))


def _attach_facts(facts: Published | dict[int, Published], function: Function) -> Function:
    setattr(function, FACTS, facts)
    return function


def find_published(members: Mapping[str, object]) -> dict[str, Any]:
    """Return the members of a module that are a solver or a family of solvers."""
    return {name: member for name, member in members.items() if hasattr(member, FACTS)}


def solvers_by_name(functions: Mapping[str, Any]) -> dict[str, Solver]:
    """Return the solvers of published functions by their names in plans: for a family, one for each order."""
    found: dict[str, Solver] = {}
    for name, function in functions.items():
        orders = orders_of(function)
        found |= {f"{name}_{order}": partial(function, order=order) for order in orders} or {name: function}
    return found


def orders_of(function: object) -> tuple[int, ...]:
    """Return the orders of a family, or () for any other object."""
    facts = getattr(function, FACTS, None)
    return tuple(facts) if isinstance(facts, dict) else ()


def facts_of(solver: Solver) -> Published:
    """Return the publication of a solver, even if its parameters are set (`partial`), or UNPUBLISHED for a user-defined
    solver without one."""
    function: Any = solver.func if isinstance(solver, partial) else solver
    facts: Published | dict[int, Published] = getattr(function, FACTS, UNPUBLISHED)
    if isinstance(facts, Published):
        return facts
    assert isinstance(solver, partial)  # a family's function without an order is not a solver
    return facts[solver.keywords["order"]]
