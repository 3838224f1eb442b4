"""The paths and modules that docs/developing.md names exist, and workflows call scripts that exist."""

import importlib.util
import os
import re
from pathlib import Path

import pytest

from tests.packages import PACKAGES, module_files

ROOT = Path(__file__).parents[2]
PAGE = (ROOT / "docs/developing.md").read_text()
CODE = re.findall(r"`([^`\n]+)`", PAGE)
FOLDERS = {*PACKAGES, "tests", "benchmarks", "lab", "zoo", "docs", ".ci", ".github"}
WORKFLOWS = sorted((ROOT / ".github/workflows").glob("*.yml"))
FORMS = sorted((ROOT / ".github/ISSUE_TEMPLATE").glob("*.yml"))


def paths() -> list[str]:
    """The paths in the repository that the page names. NAME is a placeholder in recipes."""
    words = [word for code in CODE for word in code.split() if word.split("/")[0] in FOLDERS]
    return [word for word in words if "/" in word and "NAME" not in word]


def test_the_map_names_what_exists() -> None:
    assert len(paths()) > 60
    assert [path for path in paths() if not (ROOT / path).exists()] == []


def test_the_map_has_every_package() -> None:
    below = {f"{file.parent.relative_to(ROOT).as_posix()}/" for file in module_files()}
    named = {*CODE, *(f"{path.rpartition('/')[0]}/" for path in paths())}
    unnamed = [folder for folder in below - named if not folder.startswith("models/")]
    assert unnamed == []


def test_modules_that_the_recipes_run_exist() -> None:
    modules = {name for name in re.findall(r"python -m ([\w.]+)", PAGE) if name != "pytest"}
    assert len(modules) >= 3
    assert [name for name in modules if importlib.util.find_spec(name) is None] == []


def test_the_tour_takes_two_hours() -> None:
    """14 files, at 22 lines a minute."""
    tour = PAGE.partition("## A tour of two hours\n")[2].partition("\n## ")[0]
    files = re.findall(r"^\| (\d+) \| `([\w/]+\.py)` \|", tour, re.MULTILINE)
    assert [int(number) for number, _ in files] == [*range(1, 15)]
    lines = {file: len((ROOT / file).read_text().splitlines()) for _, file in files}
    assert len(lines) == 14 and sum(lines.values()) <= 2_700, lines


@pytest.mark.parametrize(
    "what", ["solver", "grid", "form of guidance", "target", "backend", "property of conditions", "source", "family"]
)
def test_each_recipe_ends_with_its_proof(what: str) -> None:
    recipe = PAGE.partition(f"## Add a {what}\n")[2].partition("\n## ")[0]
    assert "\n1. " in recipe and "\nProof: `python -m pytest " in recipe


@pytest.mark.parametrize("workflow", WORKFLOWS, ids=lambda path: path.stem)
def test_workflows_call_scripts_that_exist(workflow: Path) -> None:
    scripts = re.findall(r"run: (\.ci/\w+)", workflow.read_text())
    assert scripts
    for script in scripts:
        assert (ROOT / script).is_file()
        assert os.name == "nt" or os.access(ROOT / script, os.X_OK), f"{script} is not executable"


def test_every_script_for_a_change_is_called_by_a_workflow() -> None:
    called = "".join(path.read_text() for path in WORKFLOWS)
    assert [name for name in ("run", "oldest", "aarch64", "short") if f"run: .ci/{name}" not in called] == []


def test_files_that_scripts_run_exist() -> None:
    """An emulated machine takes minutes to start, so missing files are found here. Braces belong to the shell only."""
    text = "".join(path.read_text() for path in (ROOT / ".ci").iterdir() if path.is_file())
    named = set(re.findall(r"(?:(?<![\w/])|(?<=\$root/))tests/[^\s\"')]+", text))
    assert len(named) >= 20 and [each for each in named if not any(ROOT.glob(each))] == []


@pytest.mark.parametrize("form", [form for form in FORMS if form.stem != "config"], ids=lambda path: path.stem)
def test_issue_forms_ask_for_the_machine(form: Path) -> None:
    text = form.read_text()
    assert text.startswith("name: ") and "\nbody:\n" in text and "fewstep doctor" in text


def test_pages_that_forms_name_exist() -> None:
    named = {page for form in FORMS for page in re.findall(r"docs/\w+\.md", form.read_text())}
    assert len(named) >= 3
    assert [page for page in named if not (ROOT / page).is_file()] == []
