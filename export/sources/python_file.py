"""Load a denoiser from a user's Python file, given as `FILE.py:FUNCTION`. The function returns (module, spec), or a
diffusers pipeline."""

import ast
import hashlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from fewstep.export.sources.folder_kinds import ObjectOrigin, load_object
from fewstep.export.sources.torch_module import TorchSource, module_and_spec
from fewstep.plans.errors import STOPS, UserError, error_line
from fewstep.plans.names.user_code import error_fix
from fewstep.plans.names.user_file import allow_sibling_imports, run_file

NAMED = 8  # functions that a message lists
RETURNS = "let it return (module, fewstep.export.spec.Spec(...)), or a DiffusionPipeline"


def load_python_file(text: str, call: Mapping[str, Any] | None = None) -> TorchSource:
    """Run FILE.py and call FUNCTION(), which returns a torch module and its Spec, or a DiffusionPipeline.

    call: arguments of the pipeline's call for its recording.
    """
    result, label, digest = call_function(text)
    source = load_object(result, ObjectOrigin(label, digest, call or {}))
    if source is not None:
        return source
    if call:
        raise UserError(f"{label} returns no pipeline to call", "leave --call out: it is for diffusers pipelines")
    return TorchSource(*module_and_spec(result, label, RETURNS), label, digest)


def call_function(text: str) -> tuple[object, str, str]:
    """Run FILE.py and call FUNCTION(). Return its result, its name in messages, and the digest of the file."""
    name, _, function_name = text.rpartition(":") if ":" in text else (text, "", "")
    file = Path(name).absolute()  # the name that tracebacks show
    if file.suffix != ".py" or not function_name.isidentifier():
        fix = f"write it as {name or 'my_model.py'}:FUNCTION, one that returns (module, Spec){_list_functions(file)}"
        raise UserError(f"source {text!r} is not FILE.py:FUNCTION", fix)
    label = f"{file.name}:{function_name}"
    with allow_sibling_imports(file.parent):
        python = run_file(name)
        function = getattr(python, function_name, None)
        if not callable(function):
            fix = f"check the name after the colon{_list_functions(file)}"
            raise UserError(f"{file.name} has no function {function_name!r}", fix)
        try:
            result = function()
        except (UserError, *STOPS):  # a wrong Spec raises a complete message
            raise
        except BaseException as error:
            raise UserError(f"{label} failed: {error_line(error, file)}", error_fix(error)) from error
    return result, label, hashlib.sha256(file.read_bytes()).hexdigest()


def _list_functions(file: Path) -> str:
    """Return the functions that a file defines as the end of a fix, without running the file."""
    try:
        body = ast.parse(file.read_bytes()).body
    except (OSError, ValueError, SyntaxError, RecursionError):
        return ""
    names = [
        statement.name
        for statement in body
        if isinstance(statement, ast.FunctionDef) and not statement.name.startswith("_")
    ]
    return f": {file.name} has {', '.join(names[:NAMED])}" if names else ""
