"""Parse the name of a plan: its solver, its number of steps and its grid of times.

    SOLVER[(parameter=value, ...)]:STEPS[@GRID[(parameter=value, ...)]]

A name without a grid has the grid of its denoiser (`DenoiserFacts.grid`). A solver of distilled denoisers takes the
grid that the spec names as trained, or even steps, which come near the times of the distillation (`default_grid.py`).

e.g. "dpmpp_2m:8", "ddim(eta=0.5):10@karras(rho=5)", "ddim:4@flow_shift(shift=3)". Solvers are the functions of
`fewstep.plans.solvers`, grids the functions of `fewstep.plans.grids`. The parentheses set their parameters after the
first two. `ALIASES` of those modules are the literature's other names, which the canonical form spells out.
Further names are those of plugins (`plugins.py`). Code of one's own stands in front of its function's name, as in
"my_solver.py:heun3:8@my_grids.py:even" (`user_code.py`); the canonical form has neither its folder nor a colon.
An order of a family may be given either way, "unipc_3:8" or "unipc(order=3):8"; the former is canonical.
A name is read by the grammar of Python's literals and never evaluated.
"""

import re
from contextlib import suppress
from dataclasses import dataclass
from importlib.metadata import EntryPoint
from typing import Any

from fewstep.plans import solvers
from fewstep.plans.errors import UserError
from fewstep.plans.names.call_syntax import bind_call
from fewstep.plans.names.grid_name import GRIDS, Grid, parse_grid
from fewstep.plans.names.namespace import Namespace
from fewstep.plans.names.plugins import describe_plugin, package_of
from fewstep.plans.names.user_code import split_code
from fewstep.plans.plan import FITTED
from fewstep.plans.publication import facts_of
from fewstep.plans.symbol import Lin
from fewstep.plans.tokens import samplers as token_samplers
from fewstep.plans.tokens.samplers import TokenPlanName
from fewstep.plans.tracer import Solver

DIGITS = 9  # of a number of steps: far more than any plan has
LENGTH = 4000  # characters of a name: some hundreds of custom times
TRAILING = "trailing"  # the grid of names without one, where a denoiser says no other


def _check_sample(label: str, made: Any) -> Lin:
    if not isinstance(made, Lin):
        raise UserError(f"{label} returned {type(made).__name__}", "let it return a sample, a Lin")
    return made


SOLVERS = Namespace("solver", solvers, _check_sample, suggested=(FITTED, *token_samplers.__all__))
SAMPLERS = Namespace("sampler", token_samplers, lambda label, made: made, has_plugins=False)


@dataclass(frozen=True)
class PlanName:
    """A parsed name. `solver` and `grid` have their parameters bound. `text` is the name in canonical form, with sorted
    parameters and without defaults. The grid is left out where both it and the denoiser's are `trailing`: names of
    versions with no other default keep their meaning."""

    text: str
    solver: Solver
    steps: int
    grid: Grid


def parse_plan_name(name: str, default: str = TRAILING, distilled: str = TRAILING) -> PlanName:
    """Parse a plan's name; `default` is the grid of a name without one, `distilled` that of a solver of distilled
    denoisers. A wrong name is a UserError of one line, which lists the names."""
    _check_length(name)
    if is_token_plan_name(name):
        raise UserError(f"plan '{name}' is for tokens, and this denoiser has continuous samples", "take dpmpp_2m:8")
    code = split_code(name)
    home, (what, _, rest) = (None, name.partition(":")) if code is None else (code[0], code[1].partition(":"))
    count, at, where = rest.partition("@")
    if home is None:
        _refuse_other_tools(what.strip(), count.strip(), where.strip(), name)
    solver, solver_text = bind_call(what.strip(), name, SOLVERS, home)
    steps = _steps(count, name, solver_text if home is None else f"{home}:{what.strip()}")
    own = distilled if facts_of(solver).distilled else default
    there, where = (at and split_code(where)) or (None, where.strip() if at else own)
    if not at and (plugin := GRIDS.foreign(_called(own))) is not None:  # which a bundle says, and no caller
        fix = f"name the grid, {name}@{own}, if {package_of(plugin)} may run its code"
        raise UserError(f"plan {name!r} has the grid of its denoiser, {describe_plugin(plugin)}", fix)
    grid, grid_text = parse_grid(where, name, there)
    text = f"{solver_text}:{steps}" + ("" if grid_text == default == TRAILING else f"@{grid_text}")
    return PlanName(text, solver, steps, grid)


def parse_token_plan_name(name: str) -> TokenPlanName:
    """Parse a token plan's name, SAMPLER[(parameter=value, ...)]:STEPS, of a function of `token_samplers`."""
    _check_length(name)
    what, _, count = name.partition(":")
    called = _called(what)
    if called in SOLVERS.aliases or called in SOLVERS:
        names = ", ".join(f"{each}:8" for each in token_samplers.__all__)
        raise UserError(f"plan '{name}' is for continuous samples, and this denoiser predicts tokens", f"take {names}")
    sampler, text = bind_call(what.strip(), name, SAMPLERS)
    if not (steps := _steps(count, name, text)):
        raise UserError(f"plan '{name}' has no steps", f"write it as {text}:8")
    return TokenPlanName(f"{text}:{steps}", sampler, steps)


def is_token_plan_name(name: str) -> bool:
    """True where a name begins with a sampler of tokens."""
    return name.partition(":")[0].partition("(")[0].strip() in token_samplers.__all__


def _check_length(name: str) -> None:
    if len(name) > LENGTH:
        raise UserError(f"a plan's name has {len(name)} characters", f"use at most {LENGTH}")


def _steps(count: str, name: str, what: str) -> int:
    """The number of steps behind a solver's name."""
    count = count.strip()
    if is_token_plan_name(name) and "@" in count:
        raise UserError(f"plan '{name}' has a grid, and a plan of tokens has none", f"write it as {what}:8")
    if not (count.isascii() and count.isdecimal()) or len(count) > DIGITS:
        said = f"plan '{name}' does not say how many steps, as a positive whole number"
        raise UserError(said, f"write it as {what}:8")
    return int(count)


def plugin_of_name(name: str) -> EntryPoint | None:
    """The plugin of another package that the name of a plan means by its solver or its grid; None where it means none.
    Nothing is imported."""
    solver, _, grid = name.partition("@")
    return SOLVERS.foreign(_called(solver.partition(":")[0])) or GRIDS.foreign(_called(grid))


def check_no_plugin(name: str) -> None:
    """UserError where a name that a bundle says, and no caller, means a plugin of another package."""
    if (plugin := plugin_of_name(name)) is not None:
        fix = f"name that plan yourself, if {package_of(plugin)} may run its code (--plan on the command line)"
        raise UserError(f"the bundle's plan {name!r} is of {describe_plugin(plugin)}", fix)


def _called(text: str) -> str:
    """The name of the function in a call: "ddim" of "ddim(eta=0.5)"."""
    return text.partition("(")[0].strip()


def is_plan_name(text: str) -> bool:
    """True if the name compiles to a plan. A name such as "ddim:4 from step 1" describes a transform and does not.
    Names of a scheduler's plan and of a fitted plan do, for the bundle that has them. No code is imported for it."""
    if split_code(text) is not None:
        return False
    if plugin_of_name(text) is not None:
        return True
    with suppress(UserError):
        return bool(parse_plan_name(text))
    return re.fullmatch(r"\w+:\d+", text, re.ASCII) is not None


def with_grid(text: str) -> str:
    """A canonical name with its grid: in a bundle or a plan file a name without a grid means trailing.

    The name of a scheduler's plan, or of a fitted one, has no grid and stays as it is.
    """
    named = "@" not in text and text.partition(":")[0].partition("(")[0] in SOLVERS
    return f"{text}@{TRAILING}" if named else text


def _refuse_other_tools(what: str, count: str, where: str, name: str) -> None:
    """Refuse the name of a fitted plan, and a solver's name of another tool, for which the fix has the name here."""
    if what == FITTED and count.isdecimal():
        raise UserError(f"plan '{name}' has fitted numbers, which belong to a body of a bundle", "name a solver")
    if what == FITTED:
        raise UserError(f"plan '{name}' does not say how many evaluations", f"write {FITTED}:6")
    if "(" in what or what in SOLVERS.aliases or what in SOLVERS:
        return
    from fewstep.plans.names.foreign_names import translate_name  # for this message alone

    meant = translate_name(what, SOLVERS)
    if meant is not None:
        solver, grid = meant
        steps = count if count.isascii() and count.isdecimal() and len(count) <= DIGITS else "8"
        behind = where or grid
        fix = f"write {solver}:{steps}{f'@{behind}' if behind else ''}"
        raise UserError(f"unknown solver '{what}' in plan '{name}'", f"{fix}; `fewstep plan --list` has all")
