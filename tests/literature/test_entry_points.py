"""Every entry point of the literature resolves, and no other package imports it."""

import ast
from importlib.metadata import EntryPoint
from pathlib import Path

import pytest

from fewstep.plans.names.plugins import GROUP, load_plugin
from tests.packages import ONE_PROCESS, PACKAGES, nodes, parse_source, toml

ROOT = Path(__file__).parents[2]
NAMES = toml(ROOT / "pyproject.toml")["project"]["entry-points"][GROUP]
KINDS = {"around", "change", "solver", "source"}


@pytest.mark.parametrize(("name", "value"), [each for each in NAMES.items() if ".literature." in each[1]])
def test_a_name_is_that_of_its_function(name: str, value: str) -> None:
    function = load_plugin(EntryPoint(name, value, GROUP))
    assert callable(function) and function.__name__ == name.partition(".")[2] == value.partition(":")[2]


def test_every_name_has_a_known_kind() -> None:
    assert {name.partition(".")[0] for name in NAMES} == KINDS


@ONE_PROCESS
def test_no_package_imports_the_literature() -> None:
    """Including imports inside functions."""
    files = [file for package in PACKAGES if package != "literature" for file in (ROOT / package).rglob("*.py")]
    imports = [
        (file.name, name) for file in files for node in nodes(parse_source(file)) for name in _import_names(node)
    ]
    assert len(imports) > 2000
    assert [each for each in imports if each[1].startswith("fewstep.literature")] == []


def _import_names(node: ast.AST) -> list[str]:
    if isinstance(node, ast.ImportFrom):
        return [f"{node.module}.{alias.name}" for alias in node.names]
    return [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
