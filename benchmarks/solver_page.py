"""The tables, the plot and the grid of samples of lab/measured/solver_distances.md."""

from collections.abc import Callable, Iterable, Sequence
from pathlib import Path

import msgspec
import numpy as np

from benchmarks.distance_to_data import FEW, RisingDistance, mean_and_error, refuse_unless_falling
from benchmarks.markdown import put_part, table
from fewstep.measure.rollouts.metrics import Floats
from fewstep.report.drawing.pictures import draw_grid, encode_png
from fewstep.report.drawing.plan_plot import stack_drawings
from fewstep.report.drawing.plots import Series, line_plot

FOLDER = Path(__file__).parents[1] / "lab/measured"
PAGE = FOLDER / "solver_distances.md"
KEPT = PAGE.with_suffix(".json")
PLOT, GRID = FOLDER / "solver-distances.svg", FOLDER / "solver-samples.png"
SCRIPT = "benchmarks.solver_distances"
SHOWN = range(10_000, 10_005)  # seeds of the grid, of the first five classes


class Cell(msgspec.Struct, frozen=True, order=True):
    """The object of a figure. plan: SOLVER:STEPS."""

    denoiser: str
    body: str
    guidance: float
    plan: str

    @property
    def solver(self) -> str:
        return self.plan.partition(":")[0]

    @property
    def steps(self) -> int:
        return int(self.plan.partition(":")[2])

    def __str__(self) -> str:
        return f"{self.denoiser} {self.body} guidance {self.guidance:g} {self.plan}"


class Row(msgspec.Struct, frozen=True):
    """A figure. values: pseudo-values of FD. digest: of all that determines it."""

    cell: Cell
    samples: int
    values: tuple[float, ...]
    digest: str

    @property
    def mean(self) -> float:
        return mean_and_error(np.array(self.values))[0]

    @property
    def error(self) -> float:
        return mean_and_error(np.array(self.values))[1]


def order_rows(rows: Iterable[Row]) -> list[Row]:
    """Rows by denoiser, body, guidance, solver and steps."""
    return sorted(rows, key=lambda row: (*msgspec.structs.astuple(row.cell)[:3], row.cell.solver, row.cell.steps))


def write_page(rows: Sequence[Row]) -> None:
    """Write the tables into the page, and the plot next to its other images."""
    put_part(PAGE, SCRIPT, _distances(order_rows(rows)))
    PLOT.write_text(_plot(order_rows(rows)))


def draw_samples(sample: Callable[[Cell, range], Floats], body: str) -> None:
    """Draw the grid of `cifar10_dit`: a row of images for each number of steps of each solver."""
    plans = [f"{solver}:{steps}" for solver in ("ddim", "dpmpp_2m") for steps in (4, 8, 20, 50)]
    rows = [sample(Cell("cifar10_dit", body, 1.5, plan), SHOWN) for plan in plans]
    GRID.write_bytes(encode_png(draw_grid(np.concatenate(rows), len(SHOWN), 2)))


def _curves(rows: Sequence[Row]) -> dict[tuple[str, str, float, str], list[Row]]:
    """The rows of each line of the table, by increasing steps."""
    found: dict[tuple[str, str, float, str], list[Row]] = {}
    for row in rows:
        cell = row.cell
        found.setdefault((cell.denoiser, cell.body, cell.guidance, cell.solver), []).append(row)
    return found


_LAST = ("samples", "judges solvers")


def _judges(name: str, curve: Sequence[Row]) -> str:
    """Return whether FD of a curve may judge solvers: not if more steps than FEW are significantly worse. Empty if
    it is unknown.
    """
    by_steps = {row.cell.steps: np.array(row.values) for row in curve}
    if FEW not in by_steps or max(by_steps) == FEW:
        return ""
    try:
        refuse_unless_falling(name, by_steps)
    except RisingDistance:
        return "no, it rises"
    return "yes"


def _distances(rows: Sequence[Row]) -> str:
    counts = sorted({row.cell.steps for row in rows})
    lines = []
    for (denoiser, body, guidance, solver), curve in _curves(rows).items():
        by_steps = {row.cell.steps: f"{row.mean:.1f} ± {row.error:.1f}" for row in curve}
        samples = sorted({row.samples for row in curve})
        counted = " to ".join(map(str, dict.fromkeys((samples[0], samples[-1]))))
        said = "none" if guidance == 1 else f"{guidance:g}"
        figures = [by_steps.get(count, "") for count in counts]
        lines.append(
            [
                f"`{denoiser}`",
                body,
                said,
                f"`{solver}`",
                *figures,
                counted,
                _judges(denoiser, curve),
            ]
        )
    return table(["denoiser", "body", "guidance", "solver", *(f"{count} steps" for count in counts), *_LAST], lines)


def _plot(rows: Sequence[Row]) -> str:
    """Return a drawing for each denoiser: FD over steps, on an axis with equal distances between the numbers of
    steps.
    """
    counts = sorted({row.cell.steps for row in rows})
    drawings = []
    for denoiser in dict.fromkeys(row.cell.denoiser for row in rows):
        series = []
        curves = {key: curve for key, curve in _curves(rows).items() if key[0] == denoiser}
        solvers = sorted({key[3] for key in curves})
        for (_, body, guidance, solver), curve in curves.items():
            name = f"{solver}, {body}, " + ("no guidance" if guidance == 1 else f"guidance {guidance:g}")
            colour = solvers.index(solver) + (3 if body == "int8" else 0)
            steps = [row.cell.steps for row in curve]
            series.append(Series(name, steps, [row.mean for row in curve], colour, guidance != 1))
        drawings.append(line_plot(series, f"steps, {denoiser}", "FD(cifar10-cnn)", counts))
    return stack_drawings("FD to the test images of CIFAR-10", drawings)
