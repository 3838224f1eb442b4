"""Run one command line. Only this module turns an error into a line of text and an exit code.

Exit codes: 0 success, 1 a UserError (or a negative answer), 2 an invalid command line, 70 a bug in fewstep, 130
interrupted. The module imports no optional library, so that it can name a missing one.
"""

import errno
import json
import os
import sys
import traceback
from collections.abc import Sequence
from contextlib import suppress
from typing import NamedTuple

from fewstep.cli.output_flags import OutputOptions, split_flags
from fewstep.cli.verbs import VERBS
from fewstep.runtime.interrupts import check_interrupted, was_interrupted

COMMAND_MODULES = ("typer", "rich", "PIL")  # installed by [cli]
LIBRARY_MODULES = ("onnxruntime", "onnx", "ml_dtypes", "onnxscript", "torch", "tensorrt_rtx")

FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EIO)  # errors of a failed write
BUG = 70  # EX_SOFTWARE of sysexits.h


class Failure(NamedTuple):
    """The cause of a failure, the fix, and the exit code."""

    what: str
    fix: str
    code: int


def run_line(arguments: Sequence[str], interrupted: tuple[str, str, int]) -> int:
    """Run one command line and return the exit code. `interrupted` is the failure to report for an interrupt."""
    manner = OutputOptions()
    with suppress(AttributeError):  # stdout is not a file
        sys.stdout.reconfigure(errors="backslashreplace")  # type: ignore[union-attr]  # escapes unencodable text
    try:
        manner, line = split_flags(arguments)
        end = _run(line or ["--help"], manner)
        check_interrupted()
    except KeyboardInterrupt:
        end = Failure(*interrupted)
    return end if isinstance(end, int) else _print_failure(end, manner)


def _run(arguments: list[str], manner: OutputOptions) -> int | Failure:
    """Run the command line. Return its exit code, or the failure to report."""
    from fewstep.plans.errors import UserError, printable  # imports numpy, during which an interrupt may arrive

    try:
        if arguments == ["--version"]:
            from fewstep.runtime.machine.packages import version_of

            version = version_of("fewstep") or "(not installed)"
            print(json.dumps({"fewstep": version}) if manner.json else f"fewstep {version}")
            code = 0
        else:
            from fewstep.cli.app import run

            code = run(arguments, manner)
        print(end="", flush=True)  # raises a write error here, not at the exit of the interpreter
        return code
    except BrokenPipeError:
        _discard_stdout()
        return 1  # the reader of our output is gone, so a message would reach nobody
    except Exception as error:
        if was_interrupted():  # a library that is interrupted while it is imported raises an ImportError
            raise KeyboardInterrupt from error
        failure = _missing_library(error, arguments) or _write_failure(error)
        if isinstance(error, UserError):
            failure = Failure(error.what, error.fix, getattr(error, "code", 1))
        if manner.debug or failure is None:
            for line in traceback.format_exc().splitlines():
                sys.stderr.write(printable(line) + "\n")
        what, fix, code = failure or Failure(f"a bug in fewstep: {type(error).__name__}: {error}", "report it", BUG)
        return Failure(printable(" ".join(what.split())), printable(" ".join(fix.split())), code)


def _missing_library(error: Exception, arguments: Sequence[str]) -> Failure | None:
    """Return the failure for a library that is not installed; None for any other error."""
    if not isinstance(error, ModuleNotFoundError):
        return None
    module = (error.name or "").partition(".")[0]
    if module not in COMMAND_MODULES + LIBRARY_MODULES:
        return None
    verb = next((VERBS[argument] for argument in arguments if argument in VERBS), None)
    extras = f"cli,{verb.extras}" if module in LIBRARY_MODULES and verb is not None and verb.extras else "cli"
    return Failure(f"this needs {module}, which is not installed", f"pip install 'fewstep[{extras}]'", 1)


def _write_failure(error: Exception) -> Failure | None:
    """Return the failure for a file or a pipe that cannot be written; None for any other error."""
    if not isinstance(error, OSError):
        return None
    if error.filename is not None:
        return Failure(f"{error.filename}: {error.strerror}", "check the path, its permissions and the space left", 1)
    if error.errno not in FULL:
        return None
    _discard_stdout()  # the error does not name the file
    return Failure(f"output cannot be written ({error.strerror or error})", "check the free space of the output", 1)


def _print_failure(failure: Failure, manner: OutputOptions) -> int:
    """Print one line to stderr, and with --json also a document to stdout. Return the exit code."""
    with suppress(OSError):  # stderr is closed
        sys.stderr.write(f"fewstep: {failure.what}{failure.fix and f'; {failure.fix}'}\n")
    if manner.json:
        with suppress(OSError):
            print(json.dumps({"error": failure.what, "fix": failure.fix}), flush=True)
    return failure.code


def _discard_stdout() -> None:
    """Discard the buffer of a failing stdout, so that the exit of the interpreter does not fail again."""
    with suppress(OSError, ValueError):  # stdout is not a file
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
