"""No module needs, while it is imported, a module that needs it: the import graph of modules has no circle.

Import contracts hold the order of packages and folders; they see imports inside functions too, and some are left out
there. This test sees each module alone, and only the imports that run with it.
"""

import ast
from collections.abc import Iterator
from graphlib import CycleError, TopologicalSorter
from pathlib import Path

import pytest

from tests.packages import ONE_PROCESS, PACKAGES, parsed

ROOT = Path(__file__).parent.parent


def name_of(file: Path) -> str:
    parts = file.relative_to(ROOT).with_suffix("").parts
    return ".".join(("fewstep", *(parts[:-1] if parts[-1] == "__init__" else parts)))


def run_at_import(body: list[ast.stmt]) -> Iterator[ast.Import | ast.ImportFrom]:
    for statement in body:
        if isinstance(statement, ast.Import | ast.ImportFrom):
            yield statement
        elif isinstance(statement, ast.If) and "TYPE_CHECKING" not in ast.unparse(statement.test):
            yield from run_at_import([*statement.body, *statement.orelse])
        elif isinstance(statement, ast.Try | ast.With | ast.ClassDef):
            yield from run_at_import(statement.body)


def imports(modules: dict[str, ast.Module]) -> dict[str, set[str]]:
    """The modules of fewstep that each module names. A name that is a module is that module, not its package."""
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


@ONE_PROCESS
def test_modules_import_each_other_in_no_circle() -> None:
    files = [file for package in PACKAGES for file in (ROOT / package).rglob("*.py")]
    graph = imports({name_of(file): parsed(file) for file in files})
    assert len(graph) > 400 and sum(map(len, graph.values())) > 1500
    assert "fewstep.plans.plan" in graph["fewstep.plans.compile"]
    assert len(tuple(TopologicalSorter(graph).static_order())) == len(graph)


def test_a_circle_is_found() -> None:
    one, other = ast.parse("from fewstep.a import b"), ast.parse("import fewstep.a.c")
    graph = imports({"fewstep.a.c": one, "fewstep.a.b": other})
    with pytest.raises(CycleError):
        tuple(TopologicalSorter(graph).static_order())
