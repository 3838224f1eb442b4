"""Mark the tests of this folder as those of the lab, and let recipes import the modules in their folder."""

import sys
from pathlib import Path

import pytest

from zoo.members import FOLDER

sys.path.append(str(FOLDER))


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """pytest passes every item to this hook; items of other folders stay unchanged."""
    for item in items:
        if Path(__file__).parent in item.path.parents:
            item.add_marker(pytest.mark.lab)
