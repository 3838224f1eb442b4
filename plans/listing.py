"""List every solver with its paper, order and cost, and every grid with its parameters.

Plugins of other packages are listed by name only, from the packages' metadata. They are not imported, so a plugin that
is slow or does not load cannot break the list.
"""

import inspect
import re
from dataclasses import dataclass

from fewstep.plans import grids
from fewstep.plans.compile import trace_plan
from fewstep.plans.default_grid import ANGLES, find_trained_grid
from fewstep.plans.errors import UserError
from fewstep.plans.names.call_syntax import Value, parameters
from fewstep.plans.names.grid_name import GRIDS, Grid
from fewstep.plans.names.namespace import Function, Namespace
from fewstep.plans.names.plan_name import SOLVERS
from fewstep.plans.names.plugins import is_own, package_of, plugins
from fewstep.plans.names.token_plan_name import SAMPLERS
from fewstep.plans.plan import Plan
from fewstep.plans.publication import facts_of
from fewstep.plans.schedule import NoiseSchedule
from fewstep.plans.spec import DenoiserFacts, ScheduleSpec
from fewstep.plans.tracer import Solver

SENTENCE = re.compile(r".+?\.(?=\s\D|$)")  # "et al. 2022" does not end one
ANY = DenoiserFacts(ScheduleSpec("linear"), "sample")


@dataclass(frozen=True)
class SolverListing:
    """The description of a solver.

    evaluations: calls of the denoiser per step that does not end at the clean end.
    is_fitted: whether its parameters hold fitted numbers. With their defaults it is the same as another solver.
    rows: K, the number of state rows, each of the size of a sample.
    parameters: the defaults by name.
    given: the names of tensors that the caller passes.
    aliases: names in the literature that plans accept too.
    """

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
    """Return all solvers of fewstep by name. Evaluations and noise are read from a compiled plan."""
    return tuple(_solver_listing(name, solver) for name, solver in SOLVERS.own_functions().items())


def _solver_listing(name: str, solver: Solver) -> SolverListing:
    facts = facts_of(solver)
    many, few = (_compile_solver(name, solver, steps, facts.made_for or ANY) for steps in (20, 10))
    return SolverListing(
        name=name,
        paper=facts.paper,
        order=facts.order,
        evaluations=round((len(many.steps) - len(few.steps)) / 10),  # excludes the first and last steps
        is_stochastic=many.is_stochastic,
        is_fitted=facts.fitted,
        rows=facts.rows,
        parameters=_defaults(solver),
        given=many.given,
        aliases=SOLVERS.aliases_of(name),
    )


def _compile_solver(name: str, solver: Solver, steps: int, denoiser: DenoiserFacts) -> Plan:
    """Return the plan of a solver. Its name is not looked up, so a solver whose name is refused is listed too."""
    grid: Grid = getattr(grids, find_trained_grid(denoiser) if facts_of(solver).distilled else denoiser.grid)
    return trace_plan(f"{name}:{steps}", solver, grid(NoiseSchedule(denoiser.schedule), steps), denoiser)


@dataclass(frozen=True)
class TokenSamplerListing:
    """A token sampler. `about` is the first sentence of its documentation; `parameters` are defaults by name."""

    name: str
    about: str
    parameters: dict[str, Value | None]


def token_sampler_listings() -> tuple[TokenSamplerListing, ...]:
    """Return all token samplers of fewstep by name."""
    return tuple(
        TokenSamplerListing(name, _about(function), _defaults(function))
        for name, function in SAMPLERS.own_functions().items()
    )


@dataclass(frozen=True)
class GridListing(TokenSamplerListing):
    """A grid. A default of None means that the schedule decides.

    needs: the names of parameters without a default.
    is_default: whether plan names without a grid use this grid.
    """

    needs: tuple[str, ...]
    aliases: tuple[str, ...]
    is_default: bool


def grid_listings() -> tuple[GridListing, ...]:
    """Return all grids of fewstep by name."""
    return tuple(_grid_listing(name, grid) for name, grid in GRIDS.own_functions().items())


@dataclass(frozen=True)
class PluginListing:
    """A plugin that another package defines.

    kind: "solver" or "grid".
    value: the value of its entry point.
    is_refused: whether fewstep or another package defines the same name, so that a plan with this name is refused.
    """

    kind: str
    name: str
    package: str
    value: str
    is_refused: bool


def plugin_listings() -> tuple[PluginListing, ...]:
    """Return the solvers and grids of other packages, by kind and name."""
    return tuple(
        PluginListing(namespace.kind, name, package_of(plugin), plugin.value, _is_refused(namespace, name))
        for namespace in (SOLVERS, GRIDS)
        for name, same_name in sorted(plugins(namespace.kind).items())
        for plugin in same_name
        if not is_own(plugin)
    )


def _is_refused(namespace: Namespace, name: str) -> bool:
    try:
        namespace.check_meaning(name)
    except UserError:
        return True
    return False


def _grid_listing(name: str, grid: Function) -> GridListing:
    defaults = _defaults(grid)
    needs = tuple(key for key in parameters(grid) if key not in defaults)
    return GridListing(name, _about(grid), defaults, needs, GRIDS.aliases_of(name), name == ANGLES)


def _about(function: Function) -> str:
    """Return the first sentence of a function's documentation."""
    sentence = SENTENCE.match(" ".join((inspect.getdoc(function) or "").split()))
    return sentence[0] if sentence else ""


def _defaults(function: Function) -> dict[str, Value | None]:
    """Return the default values of a function's parameters, by name. Parameters without a default are left out."""
    settable = parameters(function).items()
    return {key: each.default for key, each in settable if each.default is not inspect.Parameter.empty}
