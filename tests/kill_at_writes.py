"""Kill a verb at every write, in one process per write, and check the bundle that remains."""

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

from fewstep.runtime.bundle.reading import list_files, open_bundle

KILLED = 9
WRITES = ("fsync", "replace", "unlink")


def outcomes(bundle: Path, run: Callable[[], object]) -> list[bool]:
    """Return for a kill before the first write, before the second, ... and finally for no kill: is the bundle the
    old one?

    Every bundle must be whole. `run` continues in a fork, so nothing that it needs may have threads yet.
    """
    old = open_bundle(bundle).manifest
    seen: list[bool] = []
    status = KILLED
    while status == KILLED:
        child = os.fork()
        if child == 0:
            _die_before_write(len(seen) + 1)
            run()
            os._exit(0)
        status = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
        found = open_bundle(bundle)
        for name in list_files(found.manifest):
            found.file(name)  # checks its hash too
        seen.append(found.manifest == old)
    assert status == 0, status
    return seen


def _die_before_write(fatal: int) -> None:
    """Let the process end, as if by a power cut, in place of its write number `fatal`."""
    writes = 0

    def dying(function: Callable[..., Any]) -> Callable[..., Any]:
        def call(*arguments: Any, **options: Any) -> Any:
            nonlocal writes
            writes += 1
            if writes == fatal:
                os._exit(KILLED)
            return function(*arguments, **options)

        return call

    for name in WRITES:
        setattr(os, name, dying(getattr(os, name)))
