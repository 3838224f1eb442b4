"""List every solver with its paper, order and cost, and every grid with its parameters."""

import inspect
import re
from dataclasses import dataclass

from fewstep.plans.compile import compile_plan
from fewstep.plans.default_grid import ANGLES
from fewstep.plans.names.call import Value, parameters
from fewstep.plans.names.grid_name import GRIDS
from fewstep.plans.names.name import SAMPLERS, SOLVERS
from fewstep.plans.names.namespace import Function
from fewstep.plans.published import facts_of
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
    """Every solver, those of plugins among them, by name; evaluations and noise are read off a compiled plan."""
    return tuple(_solver_listing(name, solver) for name, solver in SOLVERS.functions().items())


def _solver_listing(name: str, solver: Solver) -> SolverListing:
    facts = facts_of(solver)
    many, few = (compile_plan(f"{name}:{steps}", facts.made_for or ANY) for steps in (20, 10))
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


@dataclass(frozen=True)
class TokenSamplerListing:
    """A sampler of tokens. `about` is the first sentence of its documentation; `parameters` are defaults by name."""

    name: str
    about: str
    parameters: dict[str, Value | None]


def token_sampler_listings() -> tuple[TokenSamplerListing, ...]:
    """Every sampler of tokens, by name."""
    return tuple(
        TokenSamplerListing(name, _about(each), _defaults(each)) for name, each in SAMPLERS.functions().items()
    )


@dataclass(frozen=True)
class GridListing(TokenSamplerListing):
    """A grid. A default is None where the schedule decides; `needs` names parameters without one. `is_default`: names
    without a grid mean this one."""

    needs: tuple[str, ...]
    aliases: tuple[str, ...]
    is_default: bool


def grid_listings() -> tuple[GridListing, ...]:
    """Every grid, those of plugins among them, by name."""
    return tuple(_grid_listing(name, grid) for name, grid in GRIDS.functions().items())


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
