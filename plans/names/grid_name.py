"""Grids by their names in plans, NAME or NAME(parameter=value, ...)."""

import math
from collections.abc import Callable
from numbers import Real
from typing import Any

from fewstep.plans import grids
from fewstep.plans.errors import UserError
from fewstep.plans.names.call_syntax import bind_call
from fewstep.plans.names.namespace import Namespace
from fewstep.plans.schedule import NoiseSchedule, Time

Grid = Callable[[NoiseSchedule, int], tuple[Time, ...]]


def _check_times(label: str, made: Any) -> tuple[Time, ...]:
    fix = "return a tuple of times of the schedule, such as schedule.time(t) (docs/plugins.md, A grid)"
    if not (isinstance(made, tuple | list) and all(isinstance(time, Time) for time in made)):
        raise UserError(f"{label} did not return times", fix)
    for time in made:
        numbers = (time.network, time.alpha, time.sigma)
        if others := [number for number in numbers if not isinstance(number, Real)]:
            raise UserError(f"{label} returned a time with {others[0]!r:.20}, which is not a number", fix)
        if not all(map(math.isfinite, numbers)) or min(time.alpha, time.sigma) < 0:
            raise UserError(f"{label} returned a time with alpha {time.alpha:g} and sigma {time.sigma:g}", fix)
    return tuple(made)


GRIDS = Namespace("grid", grids, _check_times)


def parse_grid(text: str, plan: str) -> tuple[Grid, str]:
    """Return the grid that the text `text` of a bundle or a spec names, and its canonical name. `plan` is the name of a
    plan with that grid, for messages."""
    return bind_call(text, plan, GRIDS)
