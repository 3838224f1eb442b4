"""docs/samplers.md names everything there is."""

import re
from pathlib import Path
from typing import get_args

import pytest

from fewstep.plans import grids
from fewstep.plans.configs.classes import CLASSES
from fewstep.plans.names.call_syntax import parameters
from fewstep.plans.paths import PATHS
from fewstep.plans.spec import Prediction

PAGE = (Path(__file__).parents[2] / "docs/samplers.md").read_text()
NAMED = set(re.findall(r"`([^`]+)`", re.sub(r"```.*?```", "", PAGE, flags=re.DOTALL)))


@pytest.mark.parametrize("names", [PATHS, get_args(Prediction), grids.__all__, CLASSES])
def test_the_page_names_all_of_them(names):
    assert [name for name in names if name not in NAMED] == []


def test_the_page_lists_the_parameters_of_each_grid():
    rows = {row.split("|")[1].strip(): row.split("|")[3] for row in PAGE.splitlines() if row.startswith("| `")}
    for name in grids.__all__:
        if not name.startswith("ays_"):
            assert re.findall(r"`(\w+)`", rows[f"`{name}`"]) == list(parameters(getattr(grids, name)))
