"""FD by solver and steps: the cells to measure, resuming a run, and the contents of the page."""

from argparse import Namespace
from pathlib import Path
from types import SimpleNamespace
from xml.etree import ElementTree

import numpy as np
import pytest

from benchmarks import solver_distances, solver_page
from benchmarks.solver_distances import BLOCK, cells, measure
from benchmarks.solver_page import Cell, Row, order_rows
from fewstep.measure.distances.frechet import fit_gaussian

RNG = np.random.default_rng(0)


def row(solver: str, steps: int, values: tuple[float, ...], guidance: float = 1.0, samples: int = 128) -> Row:
    return Row(Cell("cifar10", "float32", guidance, f"{solver}:{steps}"), samples, values, "0")


def test_every_solver_is_measured_at_each_number_of_steps() -> None:
    found = [cell for cell in cells(["float32"]) if cell.denoiser == "cifar10_dit"]
    assert len(found) == len(set(found)) == 3 * 4 * 2 + 2  # the fitted plans have 4 and 8 steps
    assert {cell.steps for cell in found} == {4, 8, 20, 50}


def test_int8_has_the_guidance_of_its_calibration_alone() -> None:
    assert {cell.guidance for cell in cells(["int8"])} == {1.5}


def test_fitted_plans_have_no_guidance() -> None:
    fitted = [cell for cell in cells(["float32", "int8"]) if cell.solver == "fitted"]
    names = ("cifar10_dit", "cifar10")
    assert [str(cell) for cell in fitted] == [
        f"{name} float32 guidance 1 fitted:{steps}" for name in names for steps in (4, 8)
    ]


def test_rows_are_in_the_order_of_steps() -> None:
    rows = [row("ddim", steps, (1.0, 2.0)) for steps in (50, 4, 20, 8)]
    assert [each.cell.steps for each in order_rows(rows)] == [4, 8, 20, 50]


def test_a_row_has_the_mean_of_its_values_and_the_error_of_the_mean() -> None:
    assert row("ddim", 4, (1.0, 3.0)).mean == 2.0
    assert row("ddim", 4, (1.0, 3.0)).error == pytest.approx(1.0)


@pytest.fixture
def page(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A page without figures, in a separate folder."""
    for name in ("PAGE", "PLOT"):
        monkeypatch.setattr(solver_page, name, tmp_path / name)
    script = solver_page.SCRIPT
    (tmp_path / "PAGE").write_text(f"<!-- made by {script} -->\n<!-- end of what {script} makes -->\n")

    return tmp_path


def test_a_table_has_a_line_for_each_solver_and_a_column_for_each_number_of_steps(page: Path) -> None:
    rows = [row("ddim", 4, (10.0, 12.0)), row("ddim", 8, (4.0, 4.0), samples=256), row("unipc_2", 8, (2.0, 6.0))]
    solver_page.write_page(rows)
    lines = [line for line in (page / "PAGE").read_text().splitlines() if line.startswith("|")]
    assert lines[0] == "| denoiser | body | guidance | solver | 4 steps | 8 steps | samples | judges solvers |"
    assert lines[2:] == [
        "| `cifar10` | float32 | none | `ddim` | 11.0 ± 1.0 | 4.0 ± 0.0 | 128 to 256 |  |",
        "| `cifar10` | float32 | none | `unipc_2` |  | 4.0 ± 2.0 | 128 |  |",
    ]


def test_the_plot_is_a_drawing_of_each_curve(page: Path) -> None:
    solver_page.write_page([row("ddim", 4, (10.0, 12.0)), row("ddim", 8, (4.0, 4.0)), row("unipc_2", 8, (2.0, 6.0))])
    drawing = ElementTree.fromstring((page / "PLOT").read_text())
    assert len([each for each in drawing.iter() if each.tag.endswith("polyline")]) == 2


def test_a_curve_that_rises_judges_no_solver(page: Path) -> None:
    solver_page.write_page([row("ddim", 20, (10.0, 10.2)), row("ddim", 50, (14.0, 14.4))])
    assert "| 10.1 ± 0.1 | 14.2 ± 0.2 | 128 | no, it rises |" in (page / "PAGE").read_text()


def test_a_curve_that_falls_judges_solvers(page: Path) -> None:
    solver_page.write_page([row("ddim", 20, (14.0, 14.4)), row("ddim", 50, (10.0, 10.2))])
    assert "| 14.2 ± 0.2 | 10.1 ± 0.1 | 128 | yes |" in (page / "PAGE").read_text()


class Judge:
    """A stand-in for a denoiser's judge. Its features are normal; `asked` lists the sampled blocks."""

    def __init__(self, blocks: list[tuple[Cell, int]]) -> None:
        self.blocks = blocks

    def digest(self, cell: Cell) -> str:
        return "a"

    def features(self, cell: Cell, block: int) -> np.ndarray:
        self.blocks.append((cell, block))
        return RNG.standard_normal((BLOCK, 4)).astype(np.float32)


@pytest.fixture
def blocks(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> list[tuple[Cell, int]]:
    """The blocks that stand-ins sample, with the figures in a separate folder."""
    found: list[tuple[Cell, int]] = []
    real = fit_gaussian(RNG.standard_normal((1_000, 4)))
    monkeypatch.setattr(solver_distances, "KEPT", tmp_path / "rows.json")
    monkeypatch.setattr(solver_distances, "Judge", lambda *_: Judge(found))
    monkeypatch.setattr(solver_distances, "open_extractor", lambda *_: object())
    monkeypatch.setattr(solver_distances, "real_features", lambda *_: real)
    return found


@pytest.mark.parametrize(("known", "fitted"), [((), [4, 8]), ((4, 6), [8]), ((4, 8), [])])
def test_a_plan_is_fitted_unless_the_bundle_has_it(
    known: tuple[int, ...], fitted: list[int], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[int] = []
    manifest = SimpleNamespace(fitted=[SimpleNamespace(evaluations=steps) for steps in known])
    monkeypatch.setattr(solver_distances, "exported", lambda *_: tmp_path)
    monkeypatch.setattr(solver_distances, "load", lambda _: SimpleNamespace(bundle=SimpleNamespace(manifest=manifest)))
    monkeypatch.setattr(solver_distances, "fit", lambda options: asked.append(options.steps))
    judge = solver_distances.Judge(solver_distances.MEMBERS[0], tmp_path, object(), 1)  # type: ignore[arg-type]
    assert judge.bundle == tmp_path
    assert asked == fitted


def options(tmp_path: Path, seeds: int) -> Namespace:
    return Namespace(
        work=tmp_path, data=None, threads=1, seeds=seeds, body=["float32"], only=["dit", "unipc_2:8"], pictures=False
    )


def test_a_run_continues_with_the_seeds_that_are_missing(tmp_path: Path, blocks: list[tuple[Cell, int]]) -> None:
    rows = dict[Cell, Row]()
    measure(options(tmp_path, BLOCK), rows)
    assert {row.samples for row in rows.values()} == {BLOCK} and len(rows) == 2
    blocks.clear()
    measure(options(tmp_path, 2 * BLOCK), solver_distances.read_kept_rows())
    assert {block for _, block in blocks} == {0, 1}  # features of the first are read again
    assert {row.samples for row in solver_distances.read_kept_rows().values()} == {2 * BLOCK}


def test_what_is_known_is_not_measured_again(tmp_path: Path, blocks: list[tuple[Cell, int]]) -> None:
    measure(options(tmp_path, BLOCK), {})
    blocks.clear()
    measure(options(tmp_path, BLOCK), solver_distances.read_kept_rows())
    assert blocks == []


def test_samples_of_the_distribution_of_the_data_have_a_distance_of_zero(
    tmp_path: Path, blocks: list[tuple[Cell, int]]
) -> None:
    rows = dict[Cell, Row]()
    measure(options(tmp_path, 4 * BLOCK), rows)
    assert all(abs(row.mean) < 4 * row.error + 0.02 for row in rows.values())
