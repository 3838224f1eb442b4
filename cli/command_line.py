"""One command line, and the one place where an error becomes a line of text and an exit code.

Exit codes: 0 done, 1 a UserError (or: the answer is no), 2 a wrong command line, 70 a bug of fewstep, 130 interrupted.
It starts without any of the extras, to be able to name the one that is missing.
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

COMMAND_MODULES = ("typer", "rich", "PIL")  # what [cli] installs
LIBRARY_MODULES = ("onnxruntime", "onnx", "onnxscript", "torch", "tensorrt_rtx")

FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EIO)  # how a write fails
BUG = 70  # EX_SOFTWARE of sysexits.h


class Failure(NamedTuple):
    """A cause, its fix, and the exit code."""

    what: str
    fix: str
    code: int


def run_line(arguments: Sequence[str], interrupted: tuple[str, str, int]) -> int:
    """Run one command line; returns the exit code. `interrupted` is the failure to report for an interrupt."""
    manner = OutputOptions()
    with suppress(AttributeError):  # a stdout that is no file
        sys.stdout.reconfigure(errors="backslashreplace")  # type: ignore[union-attr]  # what it cannot encode
    try:
        manner, line = split_flags(arguments)
        end = _run(line or ["--help"], manner)
        check_interrupted()
    except KeyboardInterrupt:
        end = Failure(*interrupted)
    return end if isinstance(end, int) else _print_failure(end, manner)


def _run(arguments: list[str], manner: OutputOptions) -> int | Failure:
    """The exit code, or what went wrong."""
    from fewstep.plans.errors import UserError, printable  # takes numpy along: an interrupt may come meanwhile

    try:
        if arguments == ["--version"]:
            from fewstep.runtime.machine.packages import version_of

            version = version_of("fewstep") or "(not installed)"
            print(json.dumps({"fewstep": version}) if manner.json else f"fewstep {version}")
            code = 0
        else:
            from fewstep.cli.app import run

            code = run(arguments, manner)
        print(end="", flush=True)  # what cannot be written is told here, not by the interpreter as it ends
        return code
    except BrokenPipeError:
        _discard_stdout()
        return 1  # the reader of our output has gone, there is nobody to tell
    except Exception as error:
        if was_interrupted():  # a library that is interrupted as it is imported raises an ImportError
            raise KeyboardInterrupt from error
        failure = _missing_library(error, arguments) or _write_failure(error)
        if isinstance(error, UserError):
            failure = Failure(error.what, error.fix, getattr(error, "code", 1))
        if manner.debug or failure is None:
            for line in traceback.format_exc().splitlines():
                sys.stderr.write(printable(line) + "\n")
        what, fix, code = failure or Failure(f"a bug of fewstep: {type(error).__name__}: {error}", "report it", BUG)
        return Failure(printable(" ".join(what.split())), printable(" ".join(fix.split())), code)


def _missing_library(error: Exception, arguments: Sequence[str]) -> Failure | None:
    """A library that is not installed, if that is what the error says."""
    if not isinstance(error, ModuleNotFoundError):
        return None
    module = (error.name or "").partition(".")[0]
    if module not in COMMAND_MODULES + LIBRARY_MODULES:
        return None
    verb = next((VERBS[argument] for argument in arguments if argument in VERBS), None)
    extras = f"cli,{verb.extras}" if module in LIBRARY_MODULES and verb is not None and verb.extras else "cli"
    return Failure(f"this needs {module}, which is not installed", f"pip install 'fewstep[{extras}]'", 1)


def _write_failure(error: Exception) -> Failure | None:
    """A file or a pipe that cannot be written, if that is what the error says."""
    if not isinstance(error, OSError):
        return None
    if error.filename is not None:
        return Failure(f"{error.filename}: {error.strerror}", "check the path, its permissions and the space left", 1)
    if error.errno not in FULL:
        return None
    _discard_stdout()  # the system does not say which file it was writing
    return Failure(f"output cannot be written ({error.strerror or error})", "check the space left where it goes", 1)


def _print_failure(failure: Failure, manner: OutputOptions) -> int:
    """One line on stderr, and with --json the same as the document on stdout; the exit code."""
    with suppress(OSError):  # nobody reads it
        sys.stderr.write(f"fewstep: {failure.what}; {failure.fix}\n")
    if manner.json:
        with suppress(OSError):
            print(json.dumps({"error": failure.what, "fix": failure.fix}), flush=True)
    return failure.code


def _discard_stdout() -> None:
    """Discards the buffer of a stdout that fails, so that ending does not fail again."""
    with suppress(OSError, ValueError):  # a stdout that is no file
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
