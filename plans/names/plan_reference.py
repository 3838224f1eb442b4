"""Plan references: what a text means where a caller names a plan. No other module decides this.

| text | reference | the plan |
|---|---|---|
| `SOLVER:STEPS`, `SOLVER:STEPS@GRID`, with `+LIGHT` | `NamedReference` | compiled by its name (`plan_name.py`) |
| `fitted:EVALUATIONS` | `FittedReference` | made by `fewstep fit`, and stored in the bundle |
| `scheduler:STEPS` | `SchedulerReference` | of the scheduler that came with the denoiser |
| a text that ends in `.json` | `FileReference` | read from a plan file |

The options of verbs hold references, and functions that take a plan of any form call `parse_plan_reference` of
`any_plan.py`. The result is matched once, in `runtime/sampling/execution.py`. The names stored in bundles and compiled
plans describe plans, and not all of them are references: `split_plan_name` returns the parts of any name.
"""

import re
from dataclasses import dataclass
from pathlib import Path

from fewstep.plans.errors import UserError
from fewstep.plans.names.user_code import split_code

FITTED_SOLVER = "fitted"  # replaces the solver in the text of a `FittedReference`
FITTED = f"{FITTED_SOLVER}:"  # prefix of that text
SCHEDULER_SOLVER = "scheduler"  # replaces the solver in the text of a `SchedulerReference`
SCHEDULER = f"{SCHEDULER_SOLVER}:"  # prefix of that text
FILE = ".json"  # suffix of the text of a `FileReference`
MOST_FITTED = 64  # maximum evaluations of a fitted plan; one with more would be its own teacher
LIGHT_CALL = re.compile(r"(.+?:.+?)\+\s*([^\W\d]\w*(?:\(.*\))?)\s*", re.DOTALL)  # a name, and its choice of light steps
DIGITS = 6  # maximum digits of the number of steps of a scheduler or of a fitted plan
EQUAL_STEPS = ("euler", "flow_euler", "flow_heun")  # published loops that divide the time of a flow into equal steps


@dataclass(frozen=True)
class NameParts:
    """The parts of a plan's name, without spaces at their ends. They are not checked: `parse_plan_name` does that.

    text: the whole name, as given.
    home: the file or module of a user-supplied solver, else None.
    solver: the call of a solver, NAME or NAME(parameter=value, ...).
    steps: the number of steps, or any other text that follows the colon.
    grid: the call of a grid, which may begin with a file or module. None if the name has no grid.
    light: the call that chooses light steps, after a plus sign. None if the name has none.
    """

    text: str
    home: str | None
    solver: str
    steps: str
    grid: str | None
    light: str | None = None

    def __str__(self) -> str:
        return self.text

    @property
    def function(self) -> str:
        """The solver's name without its parameters."""
        return function_name(self.solver)

    @property
    def grid_function(self) -> str:
        """The grid's name without its parameters; empty without a grid."""
        return function_name(self.grid or "")

    @property
    def means_equal_steps(self) -> bool:
        """Whether the name, on a flow, is that of a published loop with equal steps in time. A grid names other
        steps."""
        return self.home is None and self.grid is None and self.function in EQUAL_STEPS

    @property
    def is_of_scheduler(self) -> bool:
        """Whether the plan was compiled from a scheduler (`scheduler:STEPS`). This also holds for transforms of such a
        plan."""
        return self.solver == SCHEDULER_SOLVER

    @property
    def has_step_count(self) -> bool:
        """True if the text after the colon is a number of steps."""
        return self.steps.isascii() and self.steps.isdecimal()


@dataclass(frozen=True)
class NamedReference:
    """The plan of a solver, a number of steps and a grid."""

    parts: NameParts

    def __str__(self) -> str:
        return self.parts.text


@dataclass(frozen=True)
class FittedReference:
    """The plan of this number of evaluations that `fewstep fit` made, from 1 to MOST_FITTED."""

    evaluations: int

    def __str__(self) -> str:
        return f"{FITTED}{self.evaluations}"


@dataclass(frozen=True)
class SchedulerReference:
    """This number of steps, 1 or more, of the scheduler that came with a denoiser."""

    steps: int

    def __str__(self) -> str:
        return f"{SCHEDULER}{self.steps}"


@dataclass(frozen=True)
class FileReference:
    """A reference to a plan by the path of its file."""

    path: Path

    def __str__(self) -> str:
        return str(self.path)


TextReference = NamedReference | FittedReference | SchedulerReference | FileReference


def parse_plan_text(text: str) -> TextReference:
    """Parse the text with which a user refers to a plan: a file, `fitted:N`, `scheduler:N` or a name.

    Raises UserError for an invalid number after `fitted:` or `scheduler:`. No file is read and no solver is loaded, so
    other invalid names are found when they are compiled.
    """
    if text.endswith(FILE):
        return FileReference(Path(text))
    if text.startswith(FITTED):
        return FittedReference(_parse_evaluations(text))
    if text.startswith(SCHEDULER):
        return SchedulerReference(_parse_scheduler_steps(text))
    return NamedReference(split_plan_name(text))


def split_plan_name(text: str) -> NameParts:
    """Return the parts of a plan's name, which may be any text."""
    found = LIGHT_CALL.fullmatch(text)
    whole, light = (text, None) if found is None else found.groups()
    home, rest = split_code(whole) or (None, whole)
    solver, _, rest = rest.partition(":")
    steps, at, grid = rest.partition("@")
    return NameParts(text, home, solver.strip(), steps.strip(), grid.strip() if at else None, light)


def join_plan_name(solver: str, steps: int | str, grid: str | None, light: str | None = None) -> str:
    """Return the name of a plan: ("heun", 8, "karras") -> "heun:8@karras"."""
    return f"{solver}:{steps}" + ("" if grid is None else f"@{grid}") + ("" if light is None else f"+{light}")


def with_steps(name: str, steps: int) -> str:
    """Return a plan name with another number of steps, and without light steps: ("heun:4@karras", 8) ->
    "heun:8@karras"."""
    parts = split_plan_name(name)
    return join_plan_name(parts.solver, steps, parts.grid)


def function_name(call: str) -> str:
    """Return the name of the function in a call: "ddim" for "ddim(eta=0.5)"."""
    return call.partition("(")[0].strip()


def _parse_scheduler_steps(text: str) -> int:
    """Return the number of steps in the name of a scheduler's plan."""
    count, at, _ = text.removeprefix(SCHEDULER).partition("@")
    steps = _parse_count(count)
    if steps and at:
        raise UserError(f"plan {text!r} names a grid, but a scheduler has its own times", f"write {SCHEDULER}{count}")
    if not steps:
        _refuse_rest(text, SCHEDULER, count)
        raise UserError(f"plan {text!r} has no number of steps", f"write {SCHEDULER}20")
    return steps


def _refuse_rest(text: str, prefix: str, count: str) -> None:
    """Raise UserError if the number in a name like `scheduler:8` is followed by other text."""
    digits = count[: len(count) - len(count.lstrip("0123456789"))]
    if _parse_count(digits) and digits != count:
        what = f"plan {text!r} has {count.removeprefix(digits)!r} after its number"
        raise UserError(what, f"write {prefix}{digits}")


def _parse_evaluations(text: str) -> int:
    """Return the number of evaluations in the name of a fitted plan."""
    count, at, _ = text.removeprefix(FITTED).partition("@")
    evaluations = _parse_count(count)
    if evaluations is None:
        _refuse_rest(text, FITTED, count)
        raise UserError(f"plan {text!r} has no number of evaluations", f"write {FITTED}6")
    if at:
        raise UserError(f"plan {text!r} names a grid, but a fitted plan has its own", f"write {FITTED}{count}")
    if not 0 < evaluations <= MOST_FITTED:
        raise UserError(f"plan {text!r} has {evaluations} evaluations", f"choose 1 to {MOST_FITTED}")
    return evaluations


def _parse_count(text: str) -> int | None:
    """Return a text of 1 to DIGITS digits as an integer, or None for any other text."""
    return int(text) if text.isascii() and text.isdecimal() and len(text) <= DIGITS else None
