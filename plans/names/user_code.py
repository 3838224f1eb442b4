"""User-supplied code, which a text names instead of a name of fewstep: `FILE.py:NAME` or `PACKAGE.MODULE:NAME`.

A plan's name may begin with such a text, as in "my_solver.py:heun3:8", and `fewstep export --change` accepts one. Only
a name that the caller writes runs code. Names in a bundle or a plan file are never such texts: readers refuse them, and
`code_name` returns the name that a compiled plan stores.

Installed packages can register their code under a name: `plugins.py`.
"""

import importlib
import importlib.util
import re
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import cache, wraps
from pathlib import Path
from types import ModuleType
from typing import Any

from fewstep.plans.errors import NUMERIC, STOPS, UserError, error_line

HOME = r"(?:[A-Za-z]:[\\/])?[^:@()]*\.py|[^\W\d]\w*(?:\.[^\W\d]\w*)+"
CODE = re.compile(rf"\s*({HOME}):(\s*[^\W\d].*)", re.DOTALL)  # digits after the colon follow a name of `code_name`

SIBLINGS: dict[str, Path] = {}  # the modules that files imported from their own folders, by name


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
    file = Path(home).absolute()
    changed = file.stat().st_mtime_ns if home.endswith(".py") and file.is_file() else 0
    return _function(home, name, changed, passes_arithmetic)


@cache
def _function(home: str, name: str, changed: int, passes_arithmetic: bool) -> Callable[..., Any]:
    """Load a function. `changed` is the file's modification time, so that the cache reloads a changed file."""
    if home.endswith(".py"):
        label = f"{Path(home).name}:{name}"
        with allow_sibling_imports(Path(home).absolute().parent):
            module = run_file(home)
    else:
        label, module = f"{home}:{name}", _module(home)
    function = getattr(module, name, None)
    if not callable(function):
        raise UserError(f"{home} has no function {name!r}", "check the name after the colon")

    passed: tuple[type[BaseException], ...] = (UserError, *STOPS, *(NUMERIC if passes_arithmetic else ()))

    @wraps(function)
    def call_guarded(*arguments: Any, **named: Any) -> Any:
        try:
            return function(*arguments, **named)
        except passed:
            raise
        except BaseException as error:  # user-supplied code
            place = Path(getattr(module, "__file__", None) or home)
            raise UserError(f"{label} failed: {error_line(error, place)}", error_fix(error)) from error

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


def run_file(home: str) -> ModuleType:
    """Run the file `home` again and return its module. Raises UserError if there is no such file, or if it fails."""
    file = Path(home).absolute()  # the form in tracebacks
    if not file.is_file():
        raise UserError(f"there is no file {home}", "check the path before the colon")
    if file.stem in sys.stdlib_module_names:
        raise UserError(f"{file.name} has the name of a module of Python's standard library", "rename the file")
    specification = importlib.util.spec_from_file_location(file.stem, file)
    assert specification is not None and specification.loader is not None  # a .py file has a loader
    module = importlib.util.module_from_spec(specification)
    sys.modules[file.stem] = module  # dataclasses and pickles of the file look the module up there
    try:
        specification.loader.exec_module(module)
    except (UserError, *STOPS):
        raise
    except BaseException as error:
        reason = error_line(error, file)
        raise UserError(f"{file.name} cannot be imported: {reason}", "make `python FILE` run without error") from error
    return module


@contextmanager
def allow_sibling_imports(folder: Path) -> Iterator[None]:
    """Let a file import modules in its folder, as it can when it is run as a script. A module of the same name that
    another file imported from another folder is imported again, from this folder."""
    for name in [name for name, file in SIBLINGS.items() if _is_replaced(file, name, folder)]:
        del SIBLINGS[name]
        sys.modules.pop(name, None)
    before = set(sys.modules)
    sys.path.insert(0, str(folder))
    try:
        yield
    finally:
        sys.path.remove(str(folder))
        for name in set(sys.modules) - before:
            file = Path(getattr(sys.modules[name], "__file__", None) or "")
            if any(file.is_relative_to(home) for home in _homes(name, folder)):
                SIBLINGS[name] = file


def _homes(name: str, folder: Path) -> tuple[Path, Path]:
    """Return the file and the package's folder that a module of this name has in `folder`."""
    top = name.partition(".")[0]
    return folder / f"{top}.py", folder / top


def _is_replaced(file: Path, name: str, folder: Path) -> bool:
    """Return True if `folder` has a module of this name, and `file` is another one."""
    homes = _homes(name, folder)
    return any(home.exists() for home in homes) and not any(file.is_relative_to(home) for home in homes)


def error_fix(error: BaseException) -> str:
    """Return the fix for an error of a user's function."""
    if isinstance(error, TypeError) and "dataclass instances" in str(error):
        return "change a Spec, which is not a dataclass, by msgspec.structs.replace"
    return "make the function run without error"
