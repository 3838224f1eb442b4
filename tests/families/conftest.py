"""Share the export of each family."""

from collections.abc import Callable
from functools import cache
from typing import Any

import pytest


@pytest.fixture(scope="session")
def family_bundle(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Any]:
    """Return a family by the name of its file, exported at the first request (`chain.Exported`); copy it before
    changing it.
    """
    from tests.families.chain import export_family, families

    @cache
    def export_once(stem: str) -> Any:
        (family,) = (each for each in families() if each.stem == stem)
        return export_family(family, tmp_path_factory.mktemp(stem))

    return export_once
