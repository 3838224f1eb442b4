"""Mark the tests of this folder as those of the lab."""

from pathlib import Path

import pytest

FOLDER = Path(__file__).parent


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """pytest passes every item to this hook; items of other folders stay unchanged."""
    for item in items:
        if FOLDER in item.path.parents:
            item.add_marker(pytest.mark.lab)
