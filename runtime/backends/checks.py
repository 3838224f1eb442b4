"""Checks of every backend on its settings and on installed packages."""

import importlib
import os
from numbers import Integral
from pathlib import Path
from typing import Any

from fewstep.plans.errors import UserError
from fewstep.runtime.backends import Arrays
from fewstep.runtime.bundle.manifest import GraphEntry

NOT_INSTALLED = "cannot be imported"


def import_package(module: str, label: str, install: str) -> Any:
    """A package that a backend needs. UserError, saying what lacks it and how to get it, if it cannot be imported."""
    try:
        return importlib.import_module(module)
    except (ImportError, OSError, RuntimeError) as error:  # OSError: a shared library is missing
        raise UserError(f"{label} {NOT_INSTALLED} ({error})", install) from error


def path_text(path: Path) -> str:
    """A path as engines take it, in UTF-8. Python's own text has other characters where a locale knows no UTF-8."""
    if os.name == "nt":
        return str(path)
    try:
        return os.fsencode(path).decode()
    except UnicodeDecodeError as error:
        raise UserError(f"the path {path} is not in UTF-8, and engines take no other", "rename the folder") from error


def check_names(graph: GraphEntry, feeds: Arrays) -> None:
    """UserError for a call that lacks an input of a graph, or has another."""
    names = {tensor.name for tensor in graph.inputs}
    if feeds.keys() != names:
        raise UserError(
            f"{graph.file} has other inputs than {describe_shapes(feeds)}", f"give {', '.join(sorted(names))}"
        )


def call_error(graph: str, feeds: Arrays, reason: str) -> UserError:
    """A call that an engine refused, in its words."""
    return UserError(f"{graph} failed on inputs {describe_shapes(feeds)}: {reason}", "check their shapes and types")


def describe_shapes(feeds: Arrays) -> str:
    return ", ".join(f"{name} {list(value.shape)}" for name, value in feeds.items())


def check_threads(threads: int) -> None:
    """UserError for a value that is no number of threads, or for more than there are cores."""
    if not isinstance(threads, Integral):
        raise UserError(f"threads {threads!r} is no whole number", "give threads=2, or 0 for one per core")
    cores = os.cpu_count() or 1
    if not 0 <= threads <= cores:  # spinning threads that wait for each other's core take minutes a call
        raise UserError(f"{threads} threads on {cores} cores", f"give 1 to {cores}, or 0 for one per core")
