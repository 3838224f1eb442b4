"""What is shipped is complete: packages, type markers, pins, weights, commands."""

import re
import sys
from pathlib import Path
from typing import Any

import pytest

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

ROOT = Path(__file__).parent.parent
PROJECT: dict[str, Any] = tomllib.loads((ROOT / "pyproject.toml").read_text())
FOLDERS: dict[str, str] = PROJECT["tool"]["setuptools"]["package-dir"]


def normalized(requirement: str) -> str:
    return re.sub(r"[-_.]+", "-", re.split(r"[^\w.-]", requirement.strip())[0]).lower()


def test_every_folder_with_modules_is_a_listed_package() -> None:
    found = {
        ".".join((package, *path.parent.relative_to(ROOT / folder).parts))
        for package, folder in FOLDERS.items()
        for path in (ROOT / folder).rglob("*.py")
    }
    assert found == set(PROJECT["tool"]["setuptools"]["packages"])


def test_every_listed_package_has_an_init() -> None:
    for package in PROJECT["tool"]["setuptools"]["packages"]:
        top = ".".join(package.split(".")[:2])
        folder = ROOT.joinpath(FOLDERS[top], *package.split(".")[2:])
        assert (folder / "__init__.py").is_file(), package


@pytest.mark.parametrize("folder", FOLDERS.values())
def test_every_top_level_package_is_typed(folder: str) -> None:
    assert (ROOT / folder / "py.typed").is_file()


def test_the_weights_are_shipped_and_small() -> None:
    weights = ROOT / "models/fashion_mnist/fashion_mnist.safetensors"
    assert weights.stat().st_size <= 8_000_000
    assert (ROOT / "models/fashion_mnist/card.md").is_file()


def test_every_requirement_is_pinned() -> None:
    extras = PROJECT["project"]["optional-dependencies"]
    required = {normalized(each) for group in (PROJECT["project"]["dependencies"], *extras.values()) for each in group}
    lines = (ROOT / "constraints.txt").read_text().splitlines()
    pinned = {normalized(line) for line in lines if "==" in line and not line.startswith("#")}
    untested = {normalized(each) for each in extras["gpu"]}  # needs a GPU, which no test has
    assert required - {"fewstep"} - untested <= pinned


def test_the_runtime_asks_for_three_packages() -> None:
    assert {normalized(each) for each in PROJECT["project"]["dependencies"]} == {"numpy", "msgspec", "safetensors"}


def test_the_readme_sets_up_with_two_commands_of_one_line() -> None:
    commands = re.findall(r"^    (pip install .*)$", (ROOT / "README.md").read_text(), re.MULTILINE)
    assert len(commands) == 2
    assert commands[0].endswith("&& fewstep demo") and "pytest" in commands[1]
