"""The entry point of the command line. It imports almost nothing, so that an interrupt at any time prints one line of
text."""

import os
import sys
from collections.abc import Sequence
from contextlib import suppress

STOPPED = ("interrupted", "bundles are intact: run the same command again", 130)  # what, the fix, the exit code


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command line and return the exit code.

    Without `arguments`, run those of this process, which must end after this call.
    """
    what, fix, code = STOPPED
    line = f"fewstep: {what}; {fix}"
    try:
        _open_closed_streams()
        _limit_spinning_threads()
        from fewstep.runtime.interrupts import end_with, record_interrupts

        with record_interrupts(line, code):
            try:
                from fewstep.cli.command_line import run_line

                code = run_line(sys.argv[1:] if arguments is None else arguments, STOPPED)
            except KeyboardInterrupt:  # during these imports
                _write_line(line)
            return code if arguments is not None else end_with(code)
    except KeyboardInterrupt:  # during the first imports
        _write_line(line)
        return code


def _write_line(line: str) -> None:
    with suppress(OSError):  # stderr is closed
        sys.stderr.write(f"{line}\n")


def _open_closed_streams() -> None:
    """Open standard streams that the caller closed on os.devnull.

    Otherwise they are None, and a file of a bundle could get one of their descriptors.
    """
    for name, way in (("stdin", "r"), ("stdout", "w"), ("stderr", "w")):
        if getattr(sys, name) is None:
            setattr(sys, name, open(os.devnull, way, encoding="utf-8"))  # noqa: SIM115 - open until the process ends


def _limit_spinning_threads() -> None:
    """Limit OpenBLAS to one thread, and let waiting threads of torch sleep, unless the user sets something else. The
    libraries read these variables when they are imported.

    The matrices of OpenBLAS are small, and `runtime.machine.threads` already uses each core. When other programs run,
    its threads spin while they wait: calibrating 300 MB of weights took 8 times the CPU time, and 20 MB more. Those of
    torch, of OpenMP, took 5 times the CPU time and 6 times the wall time of one thread.
    """
    os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")


if __name__ == "__main__":
    sys.exit(main())
