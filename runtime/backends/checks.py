"""Checks that several backends need, of settings, calls and installed packages."""

import importlib
import os
import re
from numbers import Integral
from pathlib import Path
from typing import Any

from fewstep.plans.errors import UserError
from fewstep.runtime.backends import Arrays
from fewstep.runtime.bundle.manifest import GraphEntry

NOT_INSTALLED = "cannot be imported"
LACKS_MEMORY = re.compile(r"out of memory|failed to allocate|ALLOC_FAILED", re.IGNORECASE)  # in an error message


def import_package(module: str, label: str, install: str) -> Any:
    """Import a package that a backend needs. Raises UserError with `label` and the fix `install` if that fails."""
    try:
        return importlib.import_module(module)
    except (ImportError, OSError, RuntimeError) as error:  # OSError: a shared library is missing
        raise UserError(f"{label} {NOT_INSTALLED} ({error})", install) from error


def path_text(path: Path) -> str:
    """Return a path as the UTF-8 text that engines need. It differs from `str(path)` if the locale is not UTF-8. Raises
    UserError for a path that is not UTF-8."""
    if os.name == "nt":
        return str(path)
    try:
        return os.fsencode(path).decode()
    except UnicodeDecodeError as error:
        raise UserError(f"the path {path} is not in UTF-8, which engines need", "rename the folder") from error


def check_names(graph: GraphEntry, feeds: Arrays) -> None:
    """Raise UserError for a call that lacks an input of a graph or has an unknown one."""
    names = {tensor.name for tensor in graph.inputs}
    if feeds.keys() != names:
        raise UserError(
            f"{graph.file} was called with the inputs {describe_shapes(feeds) or 'none'}",
            f"give {', '.join(sorted(names))}",
        )


def call_error(graph: str, feeds: Arrays, reason: str) -> UserError:
    """Return the error for a call that an engine refused, with the engine's reason."""
    return UserError(f"{graph} failed on inputs {describe_shapes(feeds)}: {reason}", "check their shapes and types")


def describe_shapes(feeds: Arrays) -> str:
    return ", ".join(f"{name} {list(value.shape)}" for name, value in feeds.items())


def check_threads(threads: int) -> None:
    """Raise UserError unless `threads` is an integer from 0 to the number of cores."""
    if not isinstance(threads, Integral):
        raise UserError(f"threads {threads!r} is not a whole number", "give threads=2, or 0 for one per core")
    cores = os.cpu_count() or 1
    if not 0 <= threads <= cores:  # with more threads, spinning ones wait for each other for minutes
        raise UserError(f"{threads} threads on {cores} cores", f"give 1 to {cores}, or 0 for one per core")
