"""The entry point. It imports next to nothing, so that an interrupt is one line of text whenever it comes."""

import sys
from collections.abc import Sequence
from contextlib import suppress

STOPPED = ("interrupted", "bundles are whole: run the same command again", 130)  # what, the fix, the exit code


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command line; the exit code."""
    try:
        from fewstep.cli.line import run_line

        return run_line(sys.argv[1:] if arguments is None else arguments, STOPPED)
    except KeyboardInterrupt:  # during these imports, or while another was told
        what, fix, code = STOPPED
        with suppress(OSError):  # nobody is left to read it
            sys.stderr.write(f"fewstep: {what}; {fix}\n")
        return code


if __name__ == "__main__":
    sys.exit(main())
