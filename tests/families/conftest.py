"""Lets the tests of this folder import the chain by name, and share what each family exports."""

import sys
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any

import pytest

sys.path.insert(0, str(Path(__file__).parent))


@pytest.fixture(scope="session")
def exported_family(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Any]:
    """A family by the name of its file, exported when it is first asked for (`chain.Exported`); copy it before changing
    it."""
    from chain import exported, families

    @cache
    def made(stem: str) -> Any:
        (family,) = (each for each in families() if each.stem == stem)
        return exported(family, tmp_path_factory.mktemp(stem))

    return made
