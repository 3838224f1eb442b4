"""docs/design.md names files and members that exist, and gives each word once."""

import re
from importlib import import_module
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).parents[2]
PAGE = (ROOT / "docs/design.md").read_text()
WORDS = re.findall(r"^\| ([^|`]+) \| [^|]+ \| `([\w.]+)` \|$", PAGE.partition("\n## Words\n")[2], re.MULTILINE)


def has(owner: Any, name: str) -> bool:
    """Whether a module or class has a member, or a field without a default."""
    return hasattr(owner, name) or name in getattr(owner, "__annotations__", {})


def exists(dotted: str) -> bool:
    """Whether a name below fewstep is a module, a member of one, or a field of a class."""
    *parents, last = dotted.split(".")
    if (ROOT / "/".join((*parents, last))).with_suffix(".py").exists() or (ROOT / "/".join((*parents, last))).is_dir():
        return True
    if (ROOT / "/".join(parents)).with_suffix(".py").exists() or (ROOT / "/".join(parents)).is_dir():
        return has(import_module(f"fewstep.{'.'.join(parents)}"), last)
    *module, owner = parents
    return has(getattr(import_module(f"fewstep.{'.'.join(module)}"), owner), last)


def test_the_glossary_has_each_word_once() -> None:
    words = [word for listed, _ in WORDS for word in listed.split(", ")]
    assert len(WORDS) > 40
    assert len(words) == len(set(words))


@pytest.mark.parametrize("name", sorted({name for _, name in WORDS}))
def test_a_word_of_the_glossary_is_in_the_code(name: str) -> None:
    assert exists(name)


def test_a_name_that_is_not_there_is_found_out() -> None:
    assert not exists("plans.plan.Plan.colour")
    assert not exists("plans.plan.Colour")


def test_paths_in_the_text_are_there() -> None:
    paths = re.findall(r"`((?:\w+/)+\w+\.py)`", PAGE)
    assert len(paths) > 8
    assert [path for path in paths if not (ROOT / path).exists()] == []
