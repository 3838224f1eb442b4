"""Choose the plan of the next sequence by the measured time of each plan."""

import math
from collections import deque
from collections.abc import Iterable, Sequence
from statistics import median

from fewstep.plans.errors import UserError
from fewstep.plans.plan import Plan, shaping_of
from fewstep.plans.shaping import Shaping, as_shaping
from fewstep.robots.control.latency import quantile
from fewstep.runtime.request import SCHEDULER
from fewstep.runtime.sampler import Sampler

WINDOW = 200  # calls that a quantile looks back on
PATIENCE = 200  # calls for which a plan is passed over before it counts as fast as in its warm-up again


class PlanChoice:
    """Chooses the best of `count` plans that keeps the deadline; plans are in order, best first. `place` is the index
    of a plan.

    A plan without measured calls is assumed to take `expected` seconds. The first call of a plan that was not warmed up
    does not count: it is slower than all others.

    A plan that was not chosen for PATIENCE calls is assumed to take the median of its warm-up again. The warm-up's
    quantile would be its slowest call, and one slow call would exclude a plan for good.
    """

    def __init__(self, count: int, deadline: float, expected: float = 0.0) -> None:
        self._deadline, self._expected = deadline, expected
        self._windows: list[deque[float]] = [deque(maxlen=WINDOW) for _ in range(count)]
        self._seconds = [expected] * count  # quantiles, computed once a call: ticks that read them are more
        self._medians = [expected] * count  # of warm-ups
        self._warm, self._failed = [False] * count, [False] * count
        self._passed_over = [0] * count  # calls since a plan was chosen
        for place in range(count):
            self._renew(place, [expected])

    def warmed_up(self, place: int, seconds: Sequence[float]) -> None:
        """Begin a plan's window with the seconds of its calls during warm-up, one or more. A time that is negative or
        infinite is left out: the clock jumped. Where none is left, the plan counts as too slow for PATIENCE calls."""
        sound = [each for each in seconds if math.isfinite(each) and each >= 0]
        self._medians[place], self._warm[place] = median(sound) if sound else self._expected, True
        self._renew(place, sound)

    def measured(self, place: int, seconds: float) -> None:
        """Add the seconds of a call to a plan's window, finite and 0 or more. The call did not fail."""
        if self._warm[place]:
            self._add(place, [seconds])
        self._warm[place], self._failed[place] = True, False

    def failed(self, place: int) -> None:
        """Skip a plan as if it were too slow: its call failed."""
        self._failed[place] = True

    def seconds(self, place: int) -> float:
        """Seconds of a plan's call, the quantile of its window."""
        return self._seconds[place]

    def choose(self) -> int:
        """The first plan that keeps the deadline; the others are passed over. If none does, it is the last, which is
        the cheapest: calls that are cut at the deadline all measure alike."""
        plans = enumerate(zip(self._seconds, self._failed, strict=True))
        places = [place for place, (seconds, fails) in plans if seconds <= self._deadline and not fails]
        chosen = min(places, default=len(self._seconds) - 1)
        for place in range(len(self._windows)):
            self._passed_over[place] = 0 if place == chosen else self._passed_over[place] + 1
            if self._passed_over[place] >= PATIENCE:
                self._passed_over[place] = 0
                self._renew(place, [self._medians[place]])
        return chosen

    def _renew(self, place: int, beginning: Sequence[float]) -> None:
        """Begin a plan's window again; the plan is no longer skipped."""
        self._windows[place].clear()
        self._failed[place] = False
        self._add(place, beginning)

    def _add(self, place: int, seconds: Sequence[float]) -> None:
        self._windows[place].extend(seconds)
        self._seconds[place] = quantile(self._windows[place]) if self._windows[place] else math.inf


def plans_of(sampler: Sampler, names: Sequence[str] | str, shaping: Shaping | None) -> list[Plan]:
    """Plans compiled for a sampler; a string is one plan."""
    names = [names] if isinstance(names, str) else names
    if not isinstance(names, Iterable):
        raise UserError(f"plans {names!r}", "give one or more, best first, such as ('dpmpp_2m:4', 'dpmpp_2m:2')")
    if not names:
        raise UserError("no plans", "give one or more, best first, such as ('dpmpp_2m:4', 'dpmpp_2m:2')")
    return [_plan_of(sampler, name, shaping) for name in names]


def _plan_of(sampler: Sampler, name: str, shaping: Shaping | None) -> Plan:
    """The plan of that name. A scheduler's plan has the shaping of its configuration, which `shaping` may repeat."""
    if shaping is None or not isinstance(name, str) or not name.startswith(SCHEDULER):
        return sampler.compile(name, shaping=shaping)
    plan = sampler.compile(name)
    own = shaping_of(plan)
    if own != as_shaping(shaping):
        does = "shapes nothing" if own is None else f"has {own} by itself"
        raise UserError(f"plan {name!r} {does}, not {shaping}", "leave shaping out, or give SOLVER:STEPS")
    return plan
