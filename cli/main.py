"""The entry point. It imports next to nothing, so that an interrupt is one line of text whenever it comes."""

import os
import sys
from collections.abc import Sequence
from contextlib import suppress

STOPPED = ("interrupted", "bundles are whole: run the same command again", 130)  # what, the fix, the exit code


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command line; the exit code. None: the arguments of this process, which has nothing to do after them."""
    what, fix, code = STOPPED
    line = f"fewstep: {what}; {fix}"
    try:
        _open_closed_streams()
        _keep_products_to_their_thread()
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
    with suppress(OSError):  # nobody is left to read it
        sys.stderr.write(f"{line}\n")


def _open_closed_streams() -> None:
    """Lead streams that the caller has closed nowhere. They are None else, and a bundle's file gets their number."""
    for name, way in (("stdin", "r"), ("stdout", "w"), ("stderr", "w")):
        if getattr(sys, name) is None:
            setattr(sys, name, open(os.devnull, way, encoding="utf-8"))  # noqa: SIM115 - for as long as it runs


def _keep_products_to_their_thread() -> None:
    """Let OpenBLAS start no threads, unless the user asks for some. It reads this when numpy is imported.

    Matrices are small here, and `runtime.machine.threads` has work for each core. Beside other programs OpenBLAS's
    threads spin for each other: calibrating 300 MB of weights took 8 times the processor's seconds, and 20 MB more.
    """
    os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")


if __name__ == "__main__":
    sys.exit(main())
