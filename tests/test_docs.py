"""What the documents show exists: links, verbs, options."""

import importlib
import re
import shlex
from dataclasses import fields
from pathlib import Path
from typing import get_type_hints

import pytest

from fewstep.cli.app import VERBS

ROOT = Path(__file__).parent.parent
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]
COMMANDS = [
    (page.name, line) for page in PAGES for line in re.findall(r"^    (fewstep .+)$", page.read_text(), re.MULTILINE)
]


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_links_lead_somewhere(page: Path) -> None:
    for link in re.findall(r"\]\(([^)#]+)\)", page.read_text()):
        assert link.startswith("https://") or (page.parent / link).exists(), link


@pytest.mark.parametrize(("page", "line"), COMMANDS)
def test_commands_use_options_that_exist(page: str, line: str) -> None:
    _, verb, *words = shlex.split(line)
    options = next(iter(get_type_hints(importlib.import_module(f"fewstep.cli.{verb}").verb).values()))
    known = {f"--{field.name.replace('_', '-')}" for field in fields(options)}
    known |= {field.metadata["short"] for field in fields(options) if "short" in field.metadata}
    assert {word for word in words if word.startswith("-")} <= known


def test_the_readme_shows_every_verb() -> None:
    text = (ROOT / "README.md").read_text()
    assert [verb for verb in VERBS if f"fewstep {verb}" not in text] == []
