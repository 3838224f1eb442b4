"""User-supplied code, which a text names instead of a name of fewstep: `FILE.py:NAME` or `PACKAGE.MODULE:NAME`.

A plan's name may begin with such a text, as in "my_solver.py:heun3:8", and `fewstep export --change` accepts one. Only
a name that the caller writes runs code. Names in a bundle or a plan file are never such texts: readers refuse them, and
`code_name` returns the name that a compiled plan stores.

Installed packages can register their code under a name: `plugins.py`.
"""

import importlib
import re
from collections.abc import Callable
from functools import cache, wraps
from pathlib import Path
from types import ModuleType
from typing import Any

from fewstep.plans.errors import NUMERIC, STOPS, UserError, error_line

HOME = r"(?:[A-Za-z]:[\\/])?[^:@()]*\.py|[^\W\d]\w*(?:\.[^\W\d]\w*)+"
CODE = re.compile(rf"\s*({HOME}):(\s*[^\W\d].*)", re.DOTALL)  # digits after the colon follow a name of `code_name`


def split_code(text: str) -> tuple[str, str] | None:
    """Split "my_solver.py:heun3:8" into ("my_solver.py", "heun3:8"). None for a text that does not name code."""
    found = CODE.fullmatch(text)
    return None if found is None else (found[1], found[2].strip())


def code_name(home: str, rest: str) -> str:
    """Return the name of user-supplied code without its folder, "my_solver.heun3:8". No code can be loaded by this
    name."""
    return f"{Path(home).stem if home.endswith('.py') else home}.{rest}"


def load_function(home: str, name: str, passes_arithmetic: bool = False) -> Callable[..., Any]:
    """Return a function of a Python file or of an installed module.

    Raises UserError if it is missing or its module fails. An error inside the function becomes a UserError.
    `passes_arithmetic` leaves arithmetic errors unchanged, for callers that convert them themselves.
    """
    if not name.isidentifier():
        raise UserError(f"{home!r} is named without a function", f"write {home}:FUNCTION")
    if home.endswith(".py"):
        from fewstep.plans.names.user_file import load_file  # most plans name no file

        module = load_file(home)
    else:
        module = _module(home)
    return _function(home, name, module, passes_arithmetic)


@cache
def _function(home: str, name: str, module: ModuleType, passes_arithmetic: bool) -> Callable[..., Any]:
    """Return a function of a loaded module, whose errors become a UserError."""
    label = f"{Path(home).name if home.endswith('.py') else home}:{name}"
    function = getattr(module, name, None)
    if not callable(function):
        raise UserError(f"{home} has no function {name!r}", "check the name after the colon")

    return report_errors(function, label, Path(getattr(module, "__file__", None) or home), passes_arithmetic)


def report_errors(
    function: Callable[..., Any], label: str, file: Path, passes_arithmetic: bool = False
) -> Callable[..., Any]:
    """Return a user's function or method whose errors become a UserError, with `label` and the line of `file`."""
    passed: tuple[type[BaseException], ...] = (UserError, *STOPS, *(NUMERIC if passes_arithmetic else ()))

    @wraps(function)
    def call_guarded(*arguments: Any, **named: Any) -> Any:
        try:
            return function(*arguments, **named)
        except passed:
            raise
        except BaseException as error:  # user-supplied code
            raise UserError(f"{label} failed: {error_line(error, file)}", error_fix(error)) from error

    return call_guarded


def _module(home: str) -> ModuleType:
    try:
        return importlib.import_module(home)
    except (UserError, *STOPS):
        raise
    except BaseException as error:
        reason = " ".join(f"{type(error).__name__}: {error}".split())
        raise UserError(f"the module {home} cannot be imported: {reason}", "install its package, or name a file") from (
            error
        )


def error_fix(error: BaseException) -> str:
    """Return the fix for an error of a user's function."""
    if isinstance(error, TypeError) and "dataclass instances" in str(error):
        return "change a Spec, which is not a dataclass, by msgspec.structs.replace"
    return "make the function run without error"
