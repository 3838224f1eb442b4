"""The entry point, and the one place where an error becomes a line of text and an exit code.

Exit codes: 0 done, 1 a UserError, 2 a wrong command line, 130 interrupted. It starts without any of the extras, to be
able to name the one that is missing.
"""

import sys
from collections.abc import Sequence
from importlib.metadata import PackageNotFoundError, version

from fewstep.runtime.errors import UserError

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


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command line; the exit code."""
    arguments = list(sys.argv[1:] if arguments is None else arguments) or ["--help"]
    debug = "--debug" in arguments
    try:
        if arguments == ["--version"]:
            sys.stdout.write(f"fewstep {_version()}\n")
            return 0
        return _run(arguments)
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
    except KeyboardInterrupt:
        return _fail("interrupted; bundles are whole: run the same command again", 130)
    except BrokenPipeError:
        return 1  # the reader of our output has gone, there is nobody to tell
    except OSError as error:
        if debug or error.filename is None:
            raise
        return _fail(f"{error.filename}: {error.strerror}; check the path, its permissions and the space left", 1)


def _run(arguments: list[str]) -> int:
    from fewstep.cli.app import run

    return run(arguments)


def _fail(message: str, code: int) -> int:
    sys.stderr.write(f"fewstep: {' '.join(message.split())}\n")
    return code


def _version() -> str:
    try:
        return version("fewstep")
    except PackageNotFoundError:
        return "(not installed)"
