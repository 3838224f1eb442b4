"""The entry point, and the one place where an error becomes a line of text and an exit code.

Exit codes: 0 done, 1 a UserError, 2 a wrong command line, 130 interrupted. It starts without any of the extras, to be
able to name the one that is missing.
"""

import errno
import os
import sys
from collections.abc import Sequence
from contextlib import suppress

EXTRAS = {  # verb -> the extras it needs beside [cli]
    "export": "export",
    "calibrate": "calibration",
    "build": "calibration,tensorrt-rtx",
    "run": "cpu",
    "report": "calibration",
    "demo": "export,calibration",
}
COMMAND_MODULES = ("typer", "rich", "PIL")  # what [cli] installs
LIBRARY_MODULES = ("onnxruntime", "onnx", "onnxscript", "torch", "polygraphy", "tensorrt_rtx")

FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EIO)  # how a write fails


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command line; the exit code."""
    try:
        return _main(arguments)
    except KeyboardInterrupt:
        return _fail("interrupted; bundles are whole: run the same command again", 130)


def _main(arguments: Sequence[str] | None) -> int:
    from fewstep.runtime.errors import UserError  # takes numpy along: an interrupt may come during these imports

    arguments = list(sys.argv[1:] if arguments is None else arguments) or ["--help"]
    debug = "--debug" in arguments
    try:
        if arguments == ["--version"]:
            print(f"fewstep {_version()}")
            code = 0
        else:
            code = _run(arguments)
        print(end="", flush=True)  # what cannot be written is told here, not by the interpreter as it ends
        return code
    except UserError as error:
        if debug:
            raise
        return _fail(str(error), 1)
    except ModuleNotFoundError as error:
        module = (error.name or "").partition(".")[0]
        if debug or module not in COMMAND_MODULES + LIBRARY_MODULES:
            raise
        verb = next(argument for argument in arguments if argument in EXTRAS) if module in LIBRARY_MODULES else None
        extras = "cli" if verb is None else f"cli,{EXTRAS[verb]}"
        return _fail(f"this needs {module}, which is not installed; pip install 'fewstep[{extras}]'", 1)
    except BrokenPipeError:
        _discard_stdout()
        return 1  # the reader of our output has gone, there is nobody to tell
    except OSError as error:
        if debug or (error.filename is None and error.errno not in FULL):
            raise
        if error.filename is None:  # the system does not say which file it was writing
            _discard_stdout()
            return _fail(f"output cannot be written ({error.strerror or error}); check the space left where it goes", 1)
        return _fail(f"{error.filename}: {error.strerror}; check the path, its permissions and the space left", 1)


def _run(arguments: list[str]) -> int:
    from fewstep.cli.app import run

    return run(arguments)


def _discard_stdout() -> None:
    """What is still buffered for a stdout that fails goes nowhere, so that ending does not fail again."""
    with suppress(OSError, ValueError):  # a stdout that is no file
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def _fail(message: str, code: int) -> int:
    sys.stderr.write(f"fewstep: {' '.join(message.split())}\n")
    return code


def _version() -> str:
    from importlib.metadata import PackageNotFoundError, version

    try:
        return version("fewstep")
    except PackageNotFoundError:
        return "(not installed)"


if __name__ == "__main__":
    sys.exit(main())
