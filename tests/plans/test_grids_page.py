"""docs/samplers.md and docs/export/spec.md name all grids, schedules, predictions and schedulers."""

import re
from pathlib import Path
from typing import get_args

import pytest

from fewstep.plans import grids
from fewstep.plans.configs.classes import CLASSES
from fewstep.plans.names.call_syntax import parameters
from fewstep.plans.paths import PATHS
from fewstep.plans.spec import Prediction

DOCS = Path(__file__).parents[2] / "docs"
SAMPLERS, SPEC = ((DOCS / page).read_text() for page in ("samplers.md", "export/spec.md"))


@pytest.mark.parametrize(
    ("names", "page"),
    [(PATHS, SPEC), (get_args(Prediction), SPEC), (grids.__all__, SAMPLERS), (CLASSES, SAMPLERS)],
    ids=["schedules", "predictions", "grids", "schedulers"],
)
def test_the_page_names_all_of_them(names, page):
    named = set(re.findall(r"`([^`]+)`", re.sub(r"```.*?```", "", page, flags=re.DOTALL)))
    assert [name for name in names if name not in named] == []


def test_the_page_lists_the_parameters_of_each_grid():
    rows = {row.split("|")[1].strip(): row.split("|")[3] for row in SAMPLERS.splitlines() if row.startswith("| `")}
    for name in grids.__all__:
        if not name.startswith("ays_"):
            assert re.findall(r"`(\w+)`", rows[f"`{name}`"]) == list(parameters(getattr(grids, name)))
