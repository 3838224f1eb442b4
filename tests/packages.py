"""The folders of the packages, for tests that read all sources. `test_packaging` compares them with the wheel."""

import ast
import gc
import sys
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import Any

import pytest

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

ROOT = Path(__file__).parent.parent
PACKAGES = tuple(sorted(marker.parent.name for marker in ROOT.glob("*/py.typed")))  # each package has one
ONE_PROCESS = pytest.mark.xdist_group("sources")  # of tests that parse all sources, so that they are parsed once


@cache
def parse_source(file: Path) -> ast.Module:
    """Return the syntax tree of a file, which must not be changed. The garbage collector would visit the trees of
    all other files meanwhile, which takes four times as long as parsing.
    """
    was_enabled = gc.isenabled()
    gc.disable()
    try:
        return ast.parse(file.read_text())
    finally:
        if was_enabled:
            gc.enable()


@cache
def nodes(tree: ast.AST) -> tuple[ast.AST, ...]:
    """Return a syntax tree, which must not be changed, and all its nodes."""
    if isinstance(tree, ast.Module):
        return tree, *(node for statement in tree.body for node in nodes(statement))
    return tuple(ast.walk(tree))


def toml(file: Path) -> dict[str, Any]:
    """The content of a TOML file."""
    return tomllib.loads(file.read_text())


def module_files() -> list[Path]:
    """The files of all packages."""
    return [file for package in PACKAGES for file in (ROOT / package).rglob("*.py")]


def name_of(file: Path) -> str:
    """The dotted name of a module."""
    parts = file.relative_to(ROOT).with_suffix("").parts
    return ".".join(("fewstep", *(parts[:-1] if parts[-1] == "__init__" else parts)))


def run_at_import(body: list[ast.stmt]) -> Iterator[ast.Import | ast.ImportFrom]:
    """Return the imports that run with a module, outside its functions."""
    for statement in body:
        if isinstance(statement, ast.Import | ast.ImportFrom):
            yield statement
        elif isinstance(statement, ast.If) and "TYPE_CHECKING" not in ast.unparse(statement.test):
            yield from run_at_import([*statement.body, *statement.orelse])
        elif isinstance(statement, ast.Try | ast.With | ast.ClassDef):
            yield from run_at_import(statement.body)


def imports_of_modules(modules: dict[str, ast.Module]) -> dict[str, set[str]]:
    """Return the modules of fewstep that each module names. A name that is a module is that module, not its package."""
    found: dict[str, set[str]] = {}
    for name, tree in modules.items():
        needed = set()
        for statement in run_at_import(tree.body):
            if isinstance(statement, ast.Import):
                needed |= {alias.name for alias in statement.names}
            elif statement.module is not None:
                needed |= {
                    full if (full := f"{statement.module}.{alias.name}") in modules else statement.module
                    for alias in statement.names
                }
        found[name] = (needed & modules.keys()) - {name}
    return found
