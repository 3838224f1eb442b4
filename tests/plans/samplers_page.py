"""The tables of docs/samplers.md; `python -m tests.plans.samplers_page` writes them."""

import re
from functools import cache
from pathlib import Path
from statistics import NormalDist

import numpy as np

from fewstep.plans import solvers
from fewstep.plans.grids import trailing
from fewstep.plans.listing import solver_listings
from fewstep.plans.lookup import found
from fewstep.plans.plan import Plan
from fewstep.plans.schedule import NoiseSchedule, Time
from fewstep.plans.spec import Prediction, ScheduleSpec
from tests.plans.convergence import gaussian_network, moments
from tests.plans.gaussian import STD
from tests.plans.mixture import NARROW, WIDE, Mixture, compiled, rms

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
    header = ("name", "paper", "order", "evaluations a step", "rows K", "noise", "parameters", "given")
    lines = [header, ("---",) * len(header)]
    for each in solver_listings():
        cells = (
            f"`{each.name}`",
            each.paper,
            "" if each.order is None else each.order,
            each.evaluations,
            each.rows,
            "yes" * each.is_stochastic,
            ", ".join(f"`{key}={value}`" for key, value in each.parameters.items()),
            ", ".join(each.given),
        )
        lines.append(tuple(str(cell) for cell in cells))
    return table(lines)


def named() -> str:
    """Names of the literature."""
    lines = [("name", "plan"), ("---",) * 2]
    lines += [(f"`{alias}`", f"`{solvers.ALIASES[alias]}`") for alias in sorted(solvers.ALIASES)]
    return table(lines)


def measured(mixture: Mixture) -> str:
    """Error of each deterministic solver at equal evaluations."""
    columns = [(*family, count) for family in SCHEDULES for count in EVALUATIONS]
    header = ("name", *(f"{spec.kind} {count}" for spec, _, count in columns))
    lines = [header, ("---",) * len(header)]
    for each in solver_listings():
        left_out = each.is_stochastic or each.is_fitted or each.given
        if each.order is not None and not left_out and each.name != "edm_euler":  # which is ddim
            errors = (error(mixture, each.name, *column) for column in columns)
            lines.append((f"`{each.name}`", *("diverges" if value > 1 else f"{value:.3f}" for value in errors)))
    return table(lines)


def error(mixture: Mixture, name: str, spec: ScheduleSpec, prediction: Prediction, count: int) -> float:
    """With as many steps of the default grid as `count` evaluations pay for."""
    plan, times = affordable(name, spec, prediction, count)
    return rms(mixture.run(plan, spec, STARTS) - ends(mixture, times[0], times[-1]))


def affordable(name: str, spec: ScheduleSpec, prediction: Prediction, count: int) -> tuple[Plan, tuple[Time, ...]]:
    for steps in range(count, 0, -1):
        times = trailing(NoiseSchedule(spec), steps)
        plan = compiled(found("solver", name), times, spec, prediction)
        if len(plan.steps) <= count:
            break
    return plan, times


def noisy() -> str:
    """How far the standard deviation of each stochastic solver's samples is off on Gaussian data, exactly."""
    columns = [(*family, count) for family in SCHEDULES for count in EVALUATIONS]
    header = ("name", *(f"{spec.kind} {count}" for spec, _, count in columns))
    lines = [header, ("---",) * len(header)]
    stochastic = (
        each.name for each in solver_listings() if each.order is not None and each.is_stochastic and not each.given
    )
    for name in ("ddim", "dpmpp_2m", *stochastic):  # two without noise to compare with
        off = (spread_off(name, *column) for column in columns)
        lines.append((f"`{name}`", *("diverges" if value > 1 else f"{value:+.3f}" for value in off)))
    return table(lines)


def spread_off(name: str, spec: ScheduleSpec, prediction: Prediction, count: int) -> float:
    """Relative to the data's."""
    plan, _ = affordable(name, spec, prediction, count)
    return moments(plan, gaussian_network(plan, spec))[1] / STD - 1


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
    for name, text in (
        ("solvers", listed()),
        ("names", named()),
        ("noisy", noisy()),
        ("wide", measured(WIDE)),
        ("narrow", measured(NARROW)),
    ):
        page = between(name).sub(text, page)
    PAGE.write_text(page)
