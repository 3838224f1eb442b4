"""Suppress the warnings of another library."""

import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

from fewstep.plans.configs import tables

HERE = Path(__file__).parent


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    for item in items:
        if HERE in item.path.parents:
            item.add_marker(pytest.mark.filterwarnings("ignore"))


@pytest.fixture(autouse=True)
def the_libraries_table() -> Any:
    before = tables.alpha_bars, tables._root
    yield
    tables.alpha_bars, tables._root = before


@pytest.fixture(autouse=True)
def no_torchsde(monkeypatch: pytest.MonkeyPatch) -> None:
    """DPMSolverSDEScheduler imports torchsde for its Brownian tree, which these tests replace."""
    monkeypatch.setitem(sys.modules, "torchsde", ModuleType("torchsde"))
