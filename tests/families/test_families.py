"""Every family goes from its source to samples of each engine, and lab/families.md has the results."""

from collections.abc import Callable
from pathlib import Path

import pytest

pytest.importorskip("torch", reason="torch, which exports them, is not installed")
pytest.importorskip("diffusers", reason="diffusers, whose classes most families are, is not installed")
import torch

from tests.families.chain import COLUMNS, LIMITS, Exported, Family, families, prove
from tests.families.page import PAGE, agree, cells, fill_page, rows

pytestmark = pytest.mark.slow

torch.set_num_threads(1)  # the networks are tiny: a second thread only waits


@pytest.mark.parametrize("family", families(), ids=lambda family: family.stem)
def test_a_family(family: Family, family_bundle: Callable[[str], Exported], tmp_path: Path) -> None:
    found = prove(family, tmp_path, family_bundle(family.stem))
    for step, shown in found.items():
        if shown.difference is not None:
            assert shown.difference <= LIMITS[step], step
    written = rows(PAGE.read_text())[family.name]
    for step, cell in cells(family, found).items():
        fix = "run python -m tests.families.page"
        assert agree(written[step], cell), f"{step}: the page has {written[step]!r}, this is {cell!r}; {fix}"


def test_the_page_has_every_family() -> None:
    text = PAGE.read_text()
    assert fill_page(text, {}) == text, "run python -m tests.families.page"
    assert [name for name, row in rows(text).items() if not all(row.values())] == []
    assert all(set(family.no) <= set(COLUMNS) for family in families())


@pytest.mark.parametrize(
    ("written", "made", "same"),
    [
        ("3e-7", "9e-8", True),
        ("6e-6", "5e-7", True),
        ("3e-4", "9e-6", False),
        ("0", "4e-8", True),
        ("2e-2, 94 % of MACs", "4e-2, 93 % of MACs", True),
        ("2e-2, 94 % of MACs", "2e-2, 60 % of MACs", False),
        ("84 nodes", "130 nodes", False),
        ("no: it is too large", "3e-7", False),
    ],
)
def test_cells_agree_as_far_as_machines_do(written: str, made: str, same: bool) -> None:
    assert agree(written, made) is same
