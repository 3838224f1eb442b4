"""The publication of a solver, written at the solver: `@Published(...)`. Lists, docs and tests read it there.

A family of orders is one function with a parameter `order`, and each of its orders is a solver of its own in plan
names: `unipc` makes unipc_1 to unipc_4.
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
    """Facts of one solver, its parameters at their defaults. It decorates the function of the solver,
    `(trace, times, *, parameters) -> sample`, and plans know that by the function's name.

    Args:
        order: of convergence between two times that are neither pure noise nor clean; the tests measure it, also on
            uneven grids. None for solvers of distilled denoisers, which do not converge to a trajectory of the data,
            and for exact inverses.
        rows: K of the state, each the size of a sample.
        made_for: a denoiser that fits, where not every one does.
        distilled: made for distilled denoisers, which know the times of their distillation.
        tied: made for functions that return x itself at sigma_min.
        fitted: its parameters hold numbers of a fit, and at their defaults it is another solver.
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
    """Decorates a family of solvers: the function takes `order`, one of these, and has no default."""
    return partial(_attach_facts, dict(orders))


def _attach_facts(facts: Published | dict[int, Published], function: Function) -> Function:
    setattr(function, FACTS, facts)
    return function


def find_published(members: Mapping[str, object]) -> dict[str, Any]:
    """The functions among a module's members that are a solver or a family of solvers."""
    return {name: member for name, member in members.items() if hasattr(member, FACTS)}


def solvers_by_name(functions: Mapping[str, Any]) -> dict[str, Solver]:
    """The solvers of published functions, by their names in plans: of a family each order."""
    found: dict[str, Solver] = {}
    for name, function in functions.items():
        orders = orders_of(function)
        found |= {f"{name}_{order}": partial(function, order=order) for order in orders} or {name: function}
    return found


def orders_of(function: object) -> tuple[int, ...]:
    """The orders of a family; none of anything else."""
    facts = getattr(function, FACTS, None)
    return tuple(facts) if isinstance(facts, dict) else ()


def facts_of(solver: Solver) -> Published:
    """The publication of a solver, also of one whose parameters are set (`partial`). One of the caller's own may have
    none."""
    function: Any = solver.func if isinstance(solver, partial) else solver
    facts: Published | dict[int, Published] = getattr(function, FACTS, UNPUBLISHED)
    if isinstance(facts, Published):
        return facts
    assert isinstance(solver, partial)  # a family's function alone is no solver
    return facts[solver.keywords["order"]]
