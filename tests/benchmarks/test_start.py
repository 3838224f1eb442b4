"""Each script of benchmarks/ and lab/ starts from the root of a clone, as a module. Neither the zoo nor benchmarks need
lab/."""

import ast
import subprocess
import sys
from pathlib import Path

import pytest

from tests.benchmarks.conftest import BENCHMARKS

FOLDERS = (BENCHMARKS, BENCHMARKS.parent / "lab")
FILES = [path for each in FOLDERS for path in sorted(each.rglob("*.py")) if "parser_of(" in path.read_text()]


def program_of(file: Path) -> Path:
    """The folder above a file that runs as one program, or else the file itself, without its suffix."""
    return next((parent for parent in file.parents if (parent / "__main__.py").is_file()), file.with_suffix(""))


STARTED = [program_of(each) for each in FILES]
MODULES = [".".join(path.relative_to(BENCHMARKS.parent).parts) for path in dict.fromkeys(STARTED)]


@pytest.mark.slow
@pytest.mark.parametrize("name", [name for name in MODULES if name != "benchmarks.options"])
def test_a_benchmark_says_how_it_is_called(name: str) -> None:
    said = subprocess.run([sys.executable, "-m", name, "--help"], cwd=BENCHMARKS.parent, capture_output=True, text=True)
    assert said.returncode == 0 and said.stdout.startswith("usage: "), said.stderr


@pytest.mark.parametrize(("folder", "others"), [("zoo", {"benchmarks", "lab"}), ("benchmarks", {"lab"})])
def test_folders_import_in_one_direction(folder: str, others: set[str]) -> None:
    for file in sorted((BENCHMARKS.parent / folder).rglob("*.py")):
        nodes = list(ast.walk(ast.parse(file.read_text())))
        modules = [node.module or "" for node in nodes if isinstance(node, ast.ImportFrom)]
        modules += [alias.name for node in nodes if isinstance(node, ast.Import) for alias in node.names]
        assert not others & {module.partition(".")[0] for module in modules}, file
