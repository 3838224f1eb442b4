"""The tables of docs/samplers.md. Run as a script, it writes them into the page anew."""

import re
from functools import cache
from pathlib import Path
from statistics import NormalDist

import numpy as np
from mixture import NARROW, WIDE, Mixture, compiled, rms

from fewstep.runtime import solvers
from fewstep.runtime.manifest import Prediction, ScheduleSpec
from fewstep.runtime.plan import Plan
from fewstep.runtime.schedule import NoiseSchedule, Time, time_grid
from fewstep.runtime.solvers.listing import listing

PAGE = Path(__file__).parents[2] / "docs/samplers.md"
SCHEDULES: list[tuple[ScheduleSpec, Prediction]] = [
    (ScheduleSpec("linear"), "epsilon"),
    (ScheduleSpec("cosine"), "v"),
    (ScheduleSpec("flow"), "flow"),
]
EVALUATIONS = (4, 8, 20)
STARTS = np.array([NormalDist().inv_cdf((i + 0.5) / 64) for i in range(64)])


def listed() -> str:
    """What there is."""
    lines = [("name", "paper", "order", "evaluations a step", "stochastic", "rows K"), ("---",) * 6]
    for each in listing():
        cells = (f"`{each.name}`", each.paper, each.order, each.evaluations, "yes" * each.is_stochastic, each.rows)
        lines.append(tuple(str(cell) for cell in cells))
    return table(lines)


def measured(mixture: Mixture) -> str:
    """Error of each deterministic solver at equal evaluations."""
    columns = [(*family, count) for family in SCHEDULES for count in EVALUATIONS]
    header = ("name", *(f"{spec.kind} {count}" for spec, _, count in columns))
    lines = [header, ("---",) * len(header)]
    for each in listing():
        if not each.is_stochastic:
            errors = (error(mixture, each.name, *column) for column in columns)
            lines.append((f"`{each.name}`", *(f"{value:.3f}" for value in errors)))
    return table(lines)


def error(mixture: Mixture, name: str, spec: ScheduleSpec, prediction: Prediction, count: int) -> float:
    """With as many steps of the default grid as `count` evaluations pay for."""
    plan, times = affordable(name, spec, prediction, count)
    return rms(mixture.run(plan, spec, STARTS) - ends(mixture, times[0], times[-1]))


def affordable(name: str, spec: ScheduleSpec, prediction: Prediction, count: int) -> tuple[Plan, tuple[Time, ...]]:
    for steps in range(count, 0, -1):
        times = time_grid(NoiseSchedule(spec), steps)
        plan = compiled(getattr(solvers, name), times, spec, prediction)
        if len(plan.steps) <= count:
            break
    return plan, times


@cache
def ends(mixture: Mixture, s: Time, t: Time) -> np.ndarray:
    return mixture.flow_map(s.sigma * STARTS, s, t)


def table(lines: list[tuple[str, ...]]) -> str:
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def between(name: str) -> re.Pattern[str]:
    """A table's place in the page."""
    return re.compile(rf"(?<=<!-- table {name} -->\n).*?(?=\n<!-- end -->)", re.DOTALL)


if __name__ == "__main__":
    page = PAGE.read_text()
    for name, text in (("solvers", listed()), ("wide", measured(WIDE)), ("narrow", measured(NARROW))):
        page = between(name).sub(text, page)
    PAGE.write_text(page)
