"""Plot a plan as one SVG file: the times of its evaluations, and the coefficients of its steps."""

import re
from html import escape

import numpy as np

from fewstep.plans.any_plan import plan_headline
from fewstep.plans.plan import Plan
from fewstep.report.drawing import plots
from fewstep.report.drawing.plan_view import X0Recurrence, extract_recurrence
from fewstep.report.drawing.plots import Series

TITLE_HEIGHT, GAP = 34, 26
LAG_NAMES = ("x0 of this evaluation", "x0 of the previous evaluation", "two before", "three before")
EARLIER = "all earlier ones, sum of absolute values"
NEGLIGIBLE = 1e-12  # share of the largest coefficient; smaller ones are due to rounding, not part of the solver


def draw_plan(plan: Plan) -> str:
    """Return the SVG file: lambda over the evaluations, and the coefficients of each step."""
    return stack_drawings(plan_headline(plan), [_plot_grid(plan), _plot_coefficients(extract_recurrence(plan))])


def stack_drawings(title: str, drawings: list[str]) -> str:
    """Return one self-contained SVG file with a title, and with SVG drawings made by `plots` below one another."""
    top, parts = TITLE_HEIGHT, []
    for drawing in drawings:
        box = re.search(r'viewBox="([-\d. ]+)"', drawing)
        assert box is not None
        height = float(box[1].split()[3])
        parts.append(drawing.replace("<svg ", f'<svg y="{top}" width="{plots.WIDTH}" height="{height:g}" ', 1))
        top += int(height) + GAP
    size = f'viewBox="0 0 {plots.WIDTH} {top}" width="{plots.WIDTH}" height="{top}"'
    head = f'<svg xmlns="http://www.w3.org/2000/svg" {size} role="img" aria-label="{escape(title)}">'
    style = f"<style>{plots.PALETTE}{plots.STYLE.replace('width: 100%; height: auto;', '')}</style>"
    ground = '<rect width="100%" height="100%" fill="var(--page)"/>'
    text = f'<text class="legend" x="{plots.LEFT}" y="22">{escape(title)}</text>'
    return f'{head}{style}{ground}<g class="plot">{text}</g>{"".join(parts)}</svg>\n'


def _plot_grid(plan: Plan) -> str:
    """Plot log(alpha / sigma) of each evaluation. Pure noise, where it is -infinity, has no mark."""
    marks = [(index + 1, step.lam) for index, step in enumerate(plan.steps) if step.lam is not None]
    marks = marks or [(1, 0.0)]
    return plots.line_plot(
        [Series("lambda = log(alpha / sigma)", [at for at, _ in marks], [lam for _, lam in marks])],
        "evaluation",
        "lambda",
    )


def _plot_coefficients(numbers: X0Recurrence) -> str:
    """Plot the coefficients of each step: of its input, of the predicted x0, and of fresh noise."""
    at = range(1, len(numbers.keep) + 1)
    curves = [
        ("input kept", numbers.keep),
        *zip(LAG_NAMES, numbers.lags, strict=True),
        ("fresh noise", numbers.noise),
        (EARLIER, numbers.earlier),
    ]
    largest = max(float(np.abs(values).max()) for _, values in curves) or 1.0
    series = [
        Series(name, list(at), values.tolist(), colour % plots.COLOURS, dashed=name == EARLIER)
        for colour, (name, values) in enumerate(curves)
        if float(np.abs(values).max()) > NEGLIGIBLE * largest
    ]
    return plots.line_plot(series, "evaluation", "coefficient in the next input")
