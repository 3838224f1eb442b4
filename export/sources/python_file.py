"""A denoiser from a user's Python file: `FILE.py:FUNCTION`, a function that returns (module, spec)."""

import ast
import hashlib
from pathlib import Path

from fewstep.export.sources.torch_module import TorchSource, module_and_spec
from fewstep.plans.errors import UserError
from fewstep.plans.names.error_lines import error_line
from fewstep.plans.names.user_code import allow_sibling_imports, error_fix, run_file

NAMED = 8  # functions that a message lists
RETURNS = "let it return (module, fewstep.export.spec.Spec(...))"


def load_python_file(text: str) -> TorchSource:
    """Run FILE.py and call FUNCTION(), which returns a torch module and its Spec."""
    name, _, function_name = text.rpartition(":") if ":" in text else (text, "", "")
    file = Path(name).absolute()  # like in tracebacks
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
        except UserError:  # a wrong Spec raises a complete message
            raise
        except (Exception, SystemExit) as error:
            raise UserError(f"{label} failed: {error_line(error, file)}", error_fix(error)) from error
    return TorchSource(*module_and_spec(result, label, RETURNS), label, hashlib.sha256(file.read_bytes()).hexdigest())


def _list_functions(file: Path) -> str:
    """Return the functions that a file defines as the end of a fix, without running the file."""
    try:
        body = ast.parse(file.read_bytes()).body
    except (OSError, ValueError, SyntaxError, RecursionError):
        return ""
    names = [each.name for each in body if isinstance(each, ast.FunctionDef) and not each.name.startswith("_")]
    return f": {file.name} has {', '.join(names[:NAMED])}" if names else ""
