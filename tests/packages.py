"""The folders of the packages, for tests that read all sources. `test_packaging` compares them with pyproject."""

import ast
from functools import cache
from pathlib import Path

import pytest

PACKAGES = (
    "calibration",
    "cli",
    "control",
    "engines",
    "evaluation",
    "export",
    "fitting",
    "graph",
    "lowering",
    "machine",
    "models",
    "plans",
    "ranges",
    "rollouts",
    "runs",
    "runtime",
    "workers",
)

ONE_PROCESS = pytest.mark.xdist_group("sources")  # of tests that parse all sources, so that they are parsed once


@cache
def parsed(file: Path) -> ast.Module:
    """The syntax tree of a file, which nobody changes."""
    return ast.parse(file.read_text())


@cache
def nodes(tree: ast.AST) -> tuple[ast.AST, ...]:
    """A syntax tree that nobody changes, and all that stands in it."""
    if isinstance(tree, ast.Module):
        return tree, *(node for each in tree.body for node in nodes(each))
    return tuple(ast.walk(tree))
