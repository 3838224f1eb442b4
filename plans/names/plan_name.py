"""Parse the name of a plan: its solver, its number of steps and its grid of times.

    SOLVER[(parameter=value, ...)]:STEPS[@GRID[(parameter=value, ...)]][+LIGHT[(parameter=value, ...)]]

Examples are "dpmpp_2m:8", "ddim(eta=0.5):10@karras(rho=5)" and "ddim:4@flow_shift(shift=3)". Solvers are the functions
of `fewstep.plans.solvers`, and grids the functions of `fewstep.plans.grids`. LIGHT chooses the steps that a light
network runs, as in "dpmpp_2m:20+every(interval=3)"; it is a function of `fewstep.plans.light_steps`. The
parentheses set their parameters after the first two. `ALIASES` of those modules are other names in the literature.
A plan keeps such a name, so that a user finds in each report the name that he gave.

A name without a grid uses the grid of its denoiser (`DenoiserFacts.grid`). With a solver for distilled denoisers, it
uses the grid of the distillation if the spec names one, otherwise `trailing`, whose times are near those of the
distillation (`default_grid.py`). So does "euler:8" on a flow: it is the loop of the papers, with 8 equal steps in time.

Plugins add names (`plugins.py`). For user-supplied code the file or module precedes the function's name, as in
"my_solver.py:heun3:8@my_grids.py:even" (`user_code.py`). The canonical form has neither its folder nor a colon.
The order of a family may be given as "unipc_3:8" or "unipc(order=3):8"; the first form is canonical.
A name is parsed by the grammar of Python's literals and never evaluated.
"""

import re
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, field
from importlib.metadata import EntryPoint
from typing import Any

from fewstep.plans import light_steps, solvers
from fewstep.plans.errors import UserError
from fewstep.plans.names.call_syntax import bind_call
from fewstep.plans.names.grid_name import GRIDS, Grid
from fewstep.plans.names.namespace import Namespace
from fewstep.plans.names.plan_reference import (
    FITTED_SOLVER,
    NameParts,
    function_name,
    join_plan_name,
    split_plan_name,
)
from fewstep.plans.names.plugins import describe_plugin, package_of
from fewstep.plans.names.user_code import split_code
from fewstep.plans.plan import Plan
from fewstep.plans.publication import facts_of
from fewstep.plans.symbol import Lin
from fewstep.plans.tokens import samplers as token_samplers
from fewstep.plans.tracer import Solver

DIGITS = 9  # maximum digits of a number of steps: far more than any plan has
LENGTH = 4000  # maximum characters of a name: enough for some hundred custom times
TRAILING = "trailing"  # the grid of names without one, unless the denoiser has another


def _check_sample(label: str, made: Any) -> Lin:
    if not isinstance(made, Lin):
        raise UserError(f"{label} returned {type(made).__name__}", "return the sample, a Lin")
    return made


MakeLight = Callable[[Plan, str], Plan]  # a plan and the name of the features -> the plan with light steps

LIGHT_STEPS = Namespace("choice of light steps", light_steps, lambda label, made: made, has_plugins=False)
SOLVERS = Namespace("solver", solvers, _check_sample, suggested=(FITTED_SOLVER, *token_samplers.__all__))


@dataclass(frozen=True)
class PlanName:
    """A parsed plan name. `solver` and `grid` are functions whose parameters are bound.

    `text` is the canonical form, with sorted parameters and without defaults. The grid is omitted if both it and the
    denoiser's default grid are `trailing`, and for equal steps of a flow. Earlier versions always defaulted to
    `trailing`, so the names that they wrote keep their meaning.
    `reference` has the parts of the name as given.
    """

    text: str
    solver: Solver
    steps: int
    grid: Grid
    reference: NameParts = field(compare=False)
    light: MakeLight | None = None


def parse_plan_name(
    name: str | NameParts, default: str = TRAILING, trained: str = TRAILING, *, is_flow: bool = False
) -> PlanName:
    """Parse a plan's name, or its parts.

    `default` is the grid of a name without one, and `trained` that of a solver for distilled denoisers and, for a
    denoiser that `is_flow`, of a published loop with equal steps. Raises UserError, which suggests names, for an
    invalid name."""
    parts = split_name(name)
    if parts.home is None and parts.function in token_samplers.__all__:
        raise UserError(f"plan '{parts}' is for tokens, but this denoiser has continuous samples", "use dpmpp_2m:8")
    if parts.home is None:
        _refuse_other_tools(parts)
    solver, solver_text = bind_call(parts.solver, parts.text, SOLVERS, parts.home)
    steps = step_count(parts, solver_text if parts.home is None else f"{parts.home}:{parts.solver}")
    has_equal_steps = is_flow and parts.means_equal_steps
    usual = trained if has_equal_steps or facts_of(solver).distilled else default
    if parts.grid is None and (plugin := GRIDS.foreign(function_name(usual))) is not None:
        fix = f"name the grid, {parts}@{usual}, if {package_of(plugin)} may run its code"  # the bundle chose it
        raise UserError(f"plan {parts.text!r} has the grid of its denoiser, {describe_plugin(plugin)}", fix)
    grid_home, where = (None, usual) if parts.grid is None else split_code(parts.grid) or (None, parts.grid)
    grid, grid_text = bind_call(where, parts.text, GRIDS, grid_home)
    light, light_text = (None, None) if parts.light is None else bind_call(parts.light, parts.text, LIGHT_STEPS)
    is_implied = has_equal_steps or (grid_text == default == TRAILING and not parts.means_equal_steps)
    text = join_plan_name(solver_text, steps, None if is_implied else grid_text, light_text)
    return PlanName(text, solver, steps, grid, parts, light)


def split_name(name: str | NameParts) -> NameParts:
    """Return the parts of a name. Raises UserError for a name that is too long."""
    if len(str(name)) > LENGTH:
        raise UserError(f"a plan's name has {len(str(name))} characters", f"use at most {LENGTH}")
    return split_plan_name(name) if isinstance(name, str) else name


def step_count(parts: NameParts, what: str) -> int:
    """Return the number of steps in a plan name such as "ddim:8". Raises UserError if it is missing or not a positive
    integer."""
    if not parts.has_step_count or len(parts.steps) > DIGITS:
        problem = f"plan '{parts}' does not have a number of steps that is a positive integer"
        raise UserError(problem, f"write it as {what}:8")
    return int(parts.steps)


def plugin_of_name(name: str) -> EntryPoint | None:
    """Return the plugin of another package that a plan's name uses as its solver or grid. None if it uses none. Nothing
    is imported."""
    parts = split_plan_name(name)
    solver = None if parts.home is not None else SOLVERS.foreign(parts.function)
    return solver or GRIDS.foreign(parts.grid_function)


def check_no_plugin(name: str) -> None:
    """Raise UserError if a name refers to a plugin of another package. Use it for names that are stored in a bundle,
    which must not run such code; names that the user gives may."""
    if (plugin := plugin_of_name(name)) is not None:
        fix = f"name that plan yourself, if {package_of(plugin)} may run its code (--plan on the command line)"
        raise UserError(f"the bundle's plan {name!r} uses {describe_plugin(plugin)}", fix)


def is_plan_name(text: str) -> bool:
    """Return whether the name can be compiled to a plan without running the user's own code. This includes names of
    scheduler plans and fitted plans, which can be compiled only with their bundle. It excludes names that describe
    transformed plans, such as "ddim:4 from step 1". No plugin is imported."""
    if split_plan_name(text).home is not None:
        return False
    if plugin_of_name(text) is not None:
        return True
    with suppress(UserError):
        return bool(parse_plan_name(text))
    return re.fullmatch(r"\w+:\d+", text, re.ASCII) is not None


def with_grid(text: str) -> str:
    """Add the grid to a canonical name: in a bundle or a plan file, a name without a grid means trailing.

    The name of a scheduler's plan, or of a fitted plan, has no grid and is unchanged. So is that of a loop with equal
    steps of a flow, which is the only one that leaves its grid out (`parse_plan_name`).
    """
    parts = split_plan_name(text)
    is_solver = parts.function in SOLVERS or parts.function in SOLVERS.aliases
    is_named = parts.home is None and parts.grid is None and is_solver and not parts.means_equal_steps
    return join_plan_name(parts.solver, parts.steps, TRAILING, parts.light) if is_named else text


def _refuse_other_tools(parts: NameParts) -> None:
    """Raise UserError for the name of a fitted plan or a scheduler's plan, and for a solver's name in another tool. For
    the latter the fix has the name that plans use."""
    what, name = parts.solver, parts.text
    if parts.is_of_scheduler and not parts.steps:  # with a number of steps it is a `SchedulerReference`
        raise UserError(f"plan '{name}' has no number of steps", f"write {what}:20")
    if what == FITTED_SOLVER and parts.steps.isdecimal():
        raise UserError(f"plan '{name}' is a fitted plan, which exists only in a bundle", "name a solver")
    if what == FITTED_SOLVER:
        raise UserError(f"plan '{name}' does not have a number of evaluations", f"write {FITTED_SOLVER}:6")
    if "(" in what or what in SOLVERS.aliases or what in SOLVERS:
        return
    from fewstep.plans.names.foreign_names import translate_name  # only for this message

    translated = translate_name(what, SOLVERS)
    if translated is not None:
        solver, grid = translated
        steps = parts.steps if parts.has_step_count and len(parts.steps) <= DIGITS else "8"
        fix = f"write {join_plan_name(solver, steps, parts.grid or grid or None)}"
        raise UserError(f"unknown solver '{what}' in plan '{name}'", f"{fix}; `fewstep plan --list` shows all")
