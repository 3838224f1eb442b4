"""A denoiser from a user's Python file: `FILE.py:FUNCTION`, a function that returns (module, spec)."""

import hashlib
import importlib.util
import sys
import traceback
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import ModuleType

from fewstep.export.sources.torch_module import TorchSource
from fewstep.export.spec import Spec
from fewstep.plans.errors import UserError

RETURNS = "let it return (module, fewstep.export.spec.Spec(...))"


def load_python_file(text: str) -> TorchSource:
    """Run FILE.py and call FUNCTION(), which returns a torch module and its Spec."""
    name, _, function_name = text.rpartition(":")
    file = Path(name).absolute()  # as tracebacks have it
    if file.suffix != ".py" or not function_name.isidentifier():
        raise UserError(f"source {text!r} is not FILE.py:FUNCTION", "write it as my_model.py:make")
    if not file.is_file():
        raise UserError(f"there is no file {name}", "check the path before the colon")
    if file.stem in sys.stdlib_module_names:
        raise UserError(f"{file.name} has the name of a module of Python's own", "rename the file")
    label = f"{file.name}:{function_name}"
    import torch  # takes seconds: not for what is wrong without it

    with _importable(file.parent):
        python = _run(file)
        function = getattr(python, function_name, None)
        if not callable(function):
            raise UserError(f"{file.name} has no function {function_name!r}", "check the name after the colon")
        try:
            result = function()
        except UserError:  # a wrong Spec says all by itself
            raise
        except (Exception, SystemExit) as error:
            raise UserError(f"{label} failed: {_first_line(error, file)}", "make the function run") from error
    if not (isinstance(result, tuple) and len(result) == 2):
        raise UserError(f"{label} returned {type(result).__name__}", RETURNS)
    module, spec = result
    if not isinstance(module, torch.nn.Module) or not isinstance(spec, Spec):
        raise UserError(f"{label} returned ({type(module).__name__}, {type(spec).__name__})", RETURNS)
    return TorchSource(module, spec, label, hashlib.sha256(file.read_bytes()).hexdigest())


def _run(file: Path) -> ModuleType:
    specification = importlib.util.spec_from_file_location(file.stem, file)
    assert specification is not None and specification.loader is not None  # a .py file has a loader
    python = importlib.util.module_from_spec(specification)
    sys.modules[file.stem] = python  # dataclasses and pickles of the file look it up there
    try:
        specification.loader.exec_module(python)
    except UserError:
        raise
    except (Exception, SystemExit) as error:
        reason = _first_line(error, file)
        raise UserError(f"{file.name} cannot be imported: {reason}", "make `python FILE` run without error") from error
    return python


@contextmanager
def _importable(folder: Path) -> Iterator[None]:
    """Let the file import its neighbours, as it could if it were run."""
    sys.path.insert(0, str(folder))
    try:
        yield
    finally:
        sys.path.remove(str(folder))


def _first_line(error: BaseException, file: Path) -> str:
    """The error in one line, with the last line of the user's file that led to it."""
    lines = [frame.lineno for frame in traceback.extract_tb(error.__traceback__) if Path(frame.filename) == file]
    if isinstance(error, SyntaxError):
        lines = [error.lineno]
    text = (str(error).splitlines() or [""])[0]
    place = f" (line {lines[-1]})" if lines else ""
    return f"{type(error).__name__}: {text}{place}"
