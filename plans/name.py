"""Parse the name of a plan: its solver, its number of steps and its grid of times.

    SOLVER[(parameter=value, ...)]:STEPS[@GRID[(parameter=value, ...)]]

A name without a grid has the grid of its denoiser (`DenoiserFacts.grid`). A solver of distilled denoisers takes the
grid that the spec names as trained, or even steps, which come near the times of the distillation (`default_grid.py`).

e.g. "dpmpp_2m:8", "ddim(eta=0.5):10@karras(rho=5)", "ddim:4@flow_shift(shift=3)". Solvers are the functions of
`fewstep.plans.solvers`, grids the functions of `fewstep.plans.grids`. The parentheses set their parameters after the
first two. `ALIASES` of those modules are the literature's other names, which the canonical form spells out.
Further names are those of plugins (`lookup.py`). Code of one's own stands in front of its function's name, as in
"my_solver.py:heun3:8@my_grids.py:even" (`named_code.py`); the canonical form has neither its folder nor a colon.
An order of a family may be given either way, "unipc_3:8" or "unipc(order=3):8"; the former is canonical.
A name is read by the grammar of Python's literals and never evaluated.
"""

import ast
import inspect
import re
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass
from functools import cache, partial, wraps
from types import UnionType
from typing import Any, get_args, get_type_hints

from fewstep.plans import solvers, token_samplers
from fewstep.plans.errors import UserError
from fewstep.plans.lookup import MODULES, family, found, is_name, names_of
from fewstep.plans.named_code import named_function, split_code, titled
from fewstep.plans.plan import FITTED
from fewstep.plans.schedule import NoiseSchedule, Time
from fewstep.plans.solvers.published import facts_of, orders_of
from fewstep.plans.symbol import Lin
from fewstep.plans.tokens import TokenStep
from fewstep.plans.tracer import Solver

Grid = Callable[[NoiseSchedule, int], tuple[Time, ...]]
Value = bool | int | float | tuple[float, ...]

DIGITS = 9  # of a number of steps: far more than any plan has
LENGTH = 4000  # characters of a name: some hundreds of custom times
LARGEST = 1e300  # of a parameter
TRAILING = "trailing"  # the grid of names without one, where a denoiser says no other
NUMBERS = tuple[float, ...]
WORDS: dict[Any, str] = {
    bool: "True or False",
    int: "a whole number",
    float: "a number",
    NUMBERS: "a list of numbers",
}


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
    denoisers. A wrong name is a UserError of one line, which
    lists the names."""
    _check_length(name)
    if is_token_plan_name(name):
        raise UserError(f"plan '{name}' is for tokens, and this denoiser has continuous samples", "take dpmpp_2m:8")
    code = split_code(name)
    home, (what, _, rest) = (None, name.partition(":")) if code is None else (code[0], code[1].partition(":"))
    count, at, where = rest.partition("@")
    if home is None:
        _refuse_other_tools(what.strip(), count.strip(), where.strip(), name)
    solver, solver_text = _call(what.strip(), name, "solver", home)
    steps = _steps(count, name, solver_text if home is None else f"{home}:{what.strip()}")
    own = distilled if facts_of(solver).distilled else default
    there, where = (at and split_code(where)) or (None, where.strip() if at else own)
    grid, grid_text = _call(where, name, "grid", there)
    text = f"{solver_text}:{steps}" + ("" if grid_text == default == TRAILING else f"@{grid_text}")
    return PlanName(text, solver, steps, grid)


@dataclass(frozen=True)
class TokenPlanName:
    """A parsed name of a token plan. `sampler` has its parameters bound, `text` is the canonical form."""

    text: str
    sampler: Callable[[tuple[int, ...], int], tuple[TokenStep, ...]]
    steps: int


def parse_token_plan_name(name: str) -> TokenPlanName:
    """Parse a token plan's name, SAMPLER[(parameter=value, ...)]:STEPS, of a function of `token_samplers`."""
    _check_length(name)
    what, _, count = name.partition(":")
    called = what.partition("(")[0].strip()
    if called in solvers.ALIASES or is_name("solver", called):
        names = ", ".join(f"{each}:8" for each in token_samplers.__all__)
        raise UserError(f"plan '{name}' is for continuous samples, and this denoiser predicts tokens", f"take {names}")
    sampler, text = _call(what.strip(), name, "sampler")
    if not (steps := _steps(count, name, text)):
        raise UserError(f"plan '{name}' has no steps", f"write it as {text}:8")
    return TokenPlanName(f"{text}:{steps}", sampler, steps)


def is_token_plan_name(name: str) -> bool:
    """Whether a name begins with a sampler of tokens."""
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


def is_plan_name(text: str) -> bool:
    """True if the name compiles to a plan. A name such as "ddim:4 from step 1" describes a transform and does not.
    Names of a scheduler's plan and of a fitted plan do, for the bundle that has them. No code is imported for it."""
    if split_code(text) is not None:
        return False
    with suppress(UserError):
        return bool(parse_plan_name(text))
    return re.fullmatch(r"\w+:\d+", text, re.ASCII) is not None


def with_grid(text: str) -> str:
    """A canonical name with its grid: in a bundle or a plan file a name without a grid means trailing.

    The name of a scheduler's plan, or of a fitted one, has no grid and stays as it is.
    """
    named = "@" not in text and is_name("solver", text.partition(":")[0].partition("(")[0])
    return f"{text}@{TRAILING}" if named else text


def parameters(function: Callable[..., Any]) -> dict[str, inspect.Parameter]:
    """The parameters of a solver or grid that a name may set: all after the first two. The order in a family's name
    settles some, which are left out."""
    settled = {*function.keywords, *facts_of(function).lacks} if isinstance(function, partial) else set()
    after = list(inspect.signature(function).parameters.items())[2:]
    return {name: parameter for name, parameter in after if name not in settled}


@cache
def _declared(function: Callable[..., Any]) -> tuple[dict[str, inspect.Parameter], dict[str, Any]]:
    """What a name may set, and the types of all parameters."""
    return parameters(function), get_type_hints(function.func if isinstance(function, partial) else function)


def _refuse_other_tools(what: str, count: str, where: str, name: str) -> None:
    """Refuse the name of a fitted plan, and a solver's name of another tool, for which the fix has the name here."""
    if what == FITTED and count.isdecimal():
        raise UserError(f"plan '{name}' has fitted numbers, which belong to a body of a bundle", "name a solver")
    if what == FITTED:
        raise UserError(f"plan '{name}' does not say how many evaluations", f"write {FITTED}:6")
    if what in solvers.__all__ or what in solvers.ALIASES or "(" in what:
        return
    from fewstep.plans.other_names import translated  # for this message alone

    meant = translated(what)
    if meant is not None:
        solver, grid = meant
        steps = count if count.isascii() and count.isdecimal() and len(count) <= DIGITS else "8"
        behind = where or grid
        fix = f"write {solver}:{steps}{f'@{behind}' if behind else ''}"
        raise UserError(f"unknown solver '{what}' in plan '{name}'", f"{fix}; `fewstep plan --list` has all")


def _call(text: str, name: str, kind: str, home: str | None = None) -> tuple[Any, str]:
    """The function that `text` names, with its parameters bound, and `text` in canonical form; `home` is where code
    lies that is the caller's own."""
    called, arguments = _read(text, name)
    if home is not None:
        return _bound(
            _own(named_function(home, called), kind, f"{home}:{called}"), titled(home, called), arguments, name, kind
        )
    aliases: Mapping[str, str] = getattr(MODULES[kind], "ALIASES", {})
    if called in aliases:
        called, preset = _read(aliases[called], name)
        arguments = {**preset, **arguments}
    called, arguments = _named_by_order(called, arguments, name, kind)
    function = found(kind, called)
    if function is None:
        from difflib import get_close_matches  # for this message alone: importing it takes milliseconds

        all_names = [*names_of(kind), *aliases, *([FITTED, *token_samplers.__all__] if kind == "solver" else [])]
        near = get_close_matches(called, all_names)
        if kind == "solver" and not near:
            near = get_close_matches(called, all_names, cutoff=0.0)  # some sixty would fill the screen
        which = f"{', '.join(near)}; `fewstep plan --list` has all" if near else ", ".join(all_names)
        raise UserError(f"unknown {kind} '{called}' in plan '{name}'", f"choose one of {which}")
    return _bound(function, called, arguments, name, kind)


@cache
def _own(function: Callable[..., Any], kind: str, label: str) -> Callable[..., Any]:
    """A function of the caller's own, whose result is checked too."""

    @wraps(function)
    def checked(*arguments: Any, **named: Any) -> Any:
        made = function(*arguments, **named)
        if kind == "solver" and not isinstance(made, Lin):
            raise UserError(f"solver {label} returned {type(made).__name__}", "let it return a sample, a Lin")
        if kind == "grid" and not (isinstance(made, tuple | list) and all(isinstance(each, Time) for each in made)):
            raise UserError(f"grid {label} returned no times", "let it return times of the schedule")
        return made if kind == "solver" else tuple(made)

    return checked


def _bound(
    function: Callable[..., Any], called: str, arguments: Mapping[str, Value], name: str, kind: str
) -> tuple[Any, str]:
    """A function with its parameters bound, and its canonical form."""
    accepted, hints = _declared(function)
    for parameter in arguments:
        if parameter not in accepted:
            takes = f"it takes {', '.join(accepted)}" if accepted else "it takes none: leave the parentheses out"
            raise UserError(f"{kind} {called} has no parameter '{parameter}' (plan '{name}')", takes)
    values = {
        key: _checked(value, hints.get(key, float), f"{called}({key}=...)", name) for key, value in arguments.items()
    }
    changed = {key: value for key, value in sorted(values.items()) if value != accepted[key].default}
    missing = [key for key, each in accepted.items() if each.default is inspect.Parameter.empty and key not in values]
    if missing:
        raise UserError(f"{kind} {called} needs {missing[0]} (plan '{name}')", f"write {called}({missing[0]}=...)")
    if not changed:
        return function, called
    written = ", ".join(f"{key}={_written(value)}" for key, value in changed.items())
    return partial(function, **changed), f"{called}({written})"


def _named_by_order(
    called: str, arguments: Mapping[str, Value], name: str, kind: str
) -> tuple[str, Mapping[str, Value]]:
    """("unipc", {"order": 3, "bh1": True}) -> ("unipc_3", {"bh1": True}); what is no family stays as it is."""
    orders = () if called in MODULES[kind].__all__ else orders_of(family(kind, called))
    if not orders:
        return called, arguments
    if "order" not in arguments:
        choices = ", ".join(f"{called}_{order}" for order in orders)
        raise UserError(f"solver {called} needs order (plan '{name}')", f"choose one of {choices}")
    order = _checked(arguments["order"], int, f"{called}(order=...)", name)
    if order not in orders:
        choices = ", ".join(map(str, orders))
        raise UserError(f"{called}(order=...) cannot be {order} (plan '{name}')", f"choose one of {choices}")
    return f"{called}_{order}", {key: value for key, value in arguments.items() if key != "order"}


def _read(text: str, name: str) -> tuple[str, Mapping[str, Value]]:
    """ "ddim(eta=0.5)" -> ("ddim", {"eta": 0.5})."""
    if text.isidentifier():
        return text, {}
    try:
        node = ast.parse(text, mode="eval").body
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and not node.args:
            arguments = {str(each.arg): _value(each.value) for each in node.keywords if each.arg is not None}
            if len(arguments) == len(node.keywords):
                return node.func.id, arguments
    except (SyntaxError, ValueError, RecursionError, MemoryError):
        pass
    if re.match(r"[^\W\d]\w*\.\w", text):  # as `titled` writes it
        fix = "name its file or module again, as my_solver.py:heun3:8, or run the file of the plan"
        raise UserError(f"'{text}' in plan '{name}' is of code that the name does not open", fix)
    what = f"'{text}' in plan '{name}' is not NAME or NAME(parameter=number, ...)"
    raise UserError(what, "write it as in ddim(eta=0.5):10@karras(rho=7)")


def _value(node: ast.expr) -> Value:
    """A literal number, boolean, or list of numbers."""
    value = ast.literal_eval(node)
    if isinstance(value, list | tuple):
        if not all(isinstance(each, int | float) and not isinstance(each, bool) for each in value):
            raise ValueError(value)
        return tuple(float(each) for each in value)
    if not isinstance(value, bool | int | float):
        raise ValueError(value)
    return value


def _checked(value: Value, hint: Any, where: str, name: str) -> Value:
    """The value in the type of its parameter's annotation."""
    kinds = get_args(hint) if isinstance(hint, UnionType) else (hint,)
    if all(abs(number) <= LARGEST for number in (value if isinstance(value, tuple) else (value,))):
        for kind in kinds:
            if kind is float and type(value) in (int, float):
                return float(value)  # type: ignore[arg-type]
            if kind == NUMBERS and isinstance(value, tuple) or type(value) is kind:
                return value
    wanted = " or ".join(WORDS[kind] for kind in kinds if kind in WORDS)
    raise UserError(f"{where} cannot be {_written(value)} (plan '{name}')", f"give {wanted}")


def _written(value: Value) -> str:
    """The shortest text that reads back as the value."""
    if isinstance(value, tuple):
        return f"[{', '.join(_written(each) for each in value)}]"
    if isinstance(value, float):
        return repr(value).removesuffix(".0")
    return repr(value)
