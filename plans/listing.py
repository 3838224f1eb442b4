"""List every solver with its paper, order and cost, and every grid with its parameters.

Plugins of other packages are listed by their names alone, from the packages' metadata: none is imported, so that one
that is slow or does not load takes the list away from nobody.
"""

import inspect
import re
from dataclasses import dataclass

from fewstep.plans import grids
from fewstep.plans.compile import trace_plan
from fewstep.plans.default_grid import ANGLES, distilled_grid
from fewstep.plans.errors import UserError
from fewstep.plans.names.call_syntax import Value, parameters
from fewstep.plans.names.grid_name import GRIDS, Grid
from fewstep.plans.names.namespace import Function, Namespace
from fewstep.plans.names.plan_name import SAMPLERS, SOLVERS
from fewstep.plans.names.plugins import is_own, package_of, plugins
from fewstep.plans.plan import Plan
from fewstep.plans.publication import facts_of
from fewstep.plans.schedule import NoiseSchedule
from fewstep.plans.spec import DenoiserFacts, ScheduleSpec
from fewstep.plans.tracer import Solver

SENTENCE = re.compile(r".+?\.(?=\s\D|$)")  # "et al. 2022" does not end one
ANY = DenoiserFacts(ScheduleSpec("linear"), "sample")


@dataclass(frozen=True)
class SolverListing:
    """A solver. `evaluations` counts calls of the denoiser in an inner step. `rows` is K, rows of the state of a
    sample's size. `is_fitted` says that without the numbers of a fit it is another solver. `parameters` are defaults
    by name, `given` names tensors that the caller brings, `aliases` are plan names of the literature."""

    name: str
    paper: str
    order: int | None
    evaluations: int
    is_stochastic: bool
    is_fitted: bool
    rows: int
    parameters: dict[str, Value | None]
    given: tuple[str, ...]
    aliases: tuple[str, ...]


def solver_listings() -> tuple[SolverListing, ...]:
    """Every solver of fewstep's by name; evaluations and noise are read off a compiled plan."""
    return tuple(_solver_listing(name, solver) for name, solver in SOLVERS.own_functions().items())


def _solver_listing(name: str, solver: Solver) -> SolverListing:
    facts = facts_of(solver)
    many, few = (_compiled(name, solver, steps, facts.made_for or ANY) for steps in (20, 10))
    return SolverListing(
        name=name,
        paper=facts.paper,
        order=facts.order,
        evaluations=round((len(many.steps) - len(few.steps)) / 10),  # neither the first steps nor the last
        is_stochastic=many.is_stochastic,
        is_fitted=facts.fitted,
        rows=facts.rows,
        parameters=_defaults(solver),
        given=many.given,
        aliases=SOLVERS.aliases_of(name),
    )


def _compiled(name: str, solver: Solver, steps: int, denoiser: DenoiserFacts) -> Plan:
    """The plan of a solver's name, which is not looked up: a name that is refused is listed all the same."""
    grid: Grid = getattr(grids, distilled_grid(denoiser) if facts_of(solver).distilled else denoiser.grid)
    return trace_plan(f"{name}:{steps}", solver, grid(NoiseSchedule(denoiser.schedule), steps), denoiser)


@dataclass(frozen=True)
class TokenSamplerListing:
    """A sampler of tokens. `about` is the first sentence of its documentation; `parameters` are defaults by name."""

    name: str
    about: str
    parameters: dict[str, Value | None]


def token_sampler_listings() -> tuple[TokenSamplerListing, ...]:
    """Every sampler of tokens, by name."""
    return tuple(
        TokenSamplerListing(name, _about(each), _defaults(each)) for name, each in SAMPLERS.own_functions().items()
    )


@dataclass(frozen=True)
class GridListing(TokenSamplerListing):
    """A grid. A default is None where the schedule decides; `needs` names parameters without one. `is_default`: names
    without a grid mean this one."""

    needs: tuple[str, ...]
    aliases: tuple[str, ...]
    is_default: bool


def grid_listings() -> tuple[GridListing, ...]:
    """Every grid of fewstep's by name."""
    return tuple(_grid_listing(name, grid) for name, grid in GRIDS.own_functions().items())


@dataclass(frozen=True)
class PluginListing:
    """A plugin of another package: "solver" or "grid", its name, its package, and the value of its entry point.
    `is_refused` says that fewstep or another package has the name too, so that using it is refused."""

    kind: str
    name: str
    package: str
    value: str
    is_refused: bool


def plugin_listings() -> tuple[PluginListing, ...]:
    """The solvers and grids of other packages, by kind and name."""
    return tuple(
        PluginListing(among.kind, name, package_of(each), each.value, _is_refused(among, name))
        for among in (SOLVERS, GRIDS)
        for name, same_name in sorted(plugins(among.kind).items())
        for each in same_name
        if not is_own(each)
    )


def _is_refused(among: Namespace, name: str) -> bool:
    try:
        among.check_meaning(name)
    except UserError:
        return True
    return False


def _grid_listing(name: str, grid: Function) -> GridListing:
    defaults = _defaults(grid)
    needs = tuple(key for key in parameters(grid) if key not in defaults)
    return GridListing(name, _about(grid), defaults, needs, GRIDS.aliases_of(name), name == ANGLES)


def _about(function: Function) -> str:
    """The first sentence of a function's documentation."""
    sentence = SENTENCE.match(" ".join((inspect.getdoc(function) or "").split()))
    return sentence[0] if sentence else ""


def _defaults(function: Function) -> dict[str, Value | None]:
    """The defaults of the parameters that have one."""
    settable = parameters(function).items()
    return {key: each.default for key, each in settable if each.default is not inspect.Parameter.empty}
