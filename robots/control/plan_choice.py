"""Choose the plan of the next sequence by the measured time of each plan."""

import math
from collections import deque
from collections.abc import Iterable, Sequence
from statistics import median

from fewstep.plans.any_plan import shaping_of
from fewstep.plans.errors import UserError
from fewstep.plans.plan import Plan
from fewstep.plans.shaping import Shaping, as_shaping
from fewstep.robots.control.latency import latency_quantile
from fewstep.runtime.sampling.request import SCHEDULER
from fewstep.runtime.sampling.sampler import Sampler

WINDOW = 200  # calls that a quantile looks back on
PATIENCE = 200  # calls for which a plan is passed over before it counts as fast as in its warm-up again


class PlanTimes:
    """The times of a plan's last calls, which begin with some from its warm-up. `usual` are the seconds of a call after
    it was passed over for PATIENCE calls."""

    def __init__(self, seconds: Sequence[float], usual: float, is_warm: bool) -> None:
        self.usual, self.is_warm = usual, is_warm
        self.begin(seconds)

    def begin(self, seconds: Sequence[float]) -> None:
        """Look back on these calls alone. The plan is no longer skipped."""
        self._window = deque(seconds, WINDOW)
        self.seconds = latency_quantile(self._window)  # computed once a call: ticks that read it are more
        self.fails, self.passed_over = False, 0

    def add(self, seconds: float) -> None:
        self._window.append(seconds)
        self.seconds = latency_quantile(self._window)


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
        self._plans = [PlanTimes([expected], expected, is_warm=False) for _ in range(count)]

    def record_warm_up(self, place: int, seconds: Sequence[float]) -> None:
        """Begin a plan with the seconds of its calls during warm-up. A time that is negative or infinite is left out:
        the clock jumped. Where none is left, the plan is skipped for PATIENCE calls."""
        sound = [each for each in seconds if math.isfinite(each) and each >= 0]
        times = sound or [self._expected]
        self._plans[place] = PlanTimes(times, median(times), is_warm=True)
        self._plans[place].fails = not sound

    def record_call(self, place: int, seconds: float) -> None:
        """Add the seconds of a plan's call, finite and 0 or more. The call did not fail."""
        plan = self._plans[place]
        if plan.is_warm:
            plan.add(seconds)
        plan.is_warm, plan.fails = True, False

    def record_failure(self, place: int) -> None:
        """Skip a plan as if it were too slow: its call failed."""
        self._plans[place].fails = True

    def seconds(self, place: int) -> float:
        """Seconds of a plan's call, a quantile of its last calls."""
        return self._plans[place].seconds

    def choose(self) -> int:
        """The first plan that keeps the deadline; the others are passed over. If none does, it is the last, which is
        the cheapest: calls that are cut at the deadline all measure alike."""
        keep = (place for place, each in enumerate(self._plans) if each.seconds <= self._deadline and not each.fails)
        chosen = next(keep, len(self._plans) - 1)
        for place, each in enumerate(self._plans):
            each.passed_over = 0 if place == chosen else each.passed_over + 1
            if each.passed_over >= PATIENCE:
                each.begin([each.usual])
        return chosen


def compile_plans(sampler: Sampler, names: Sequence[str] | str, shaping: Shaping | None) -> list[Plan]:
    """Plans compiled for a sampler; a string is one plan."""
    names = [names] if isinstance(names, str) else names
    if not isinstance(names, Iterable):
        raise UserError(f"plans {names!r}", "give one or more, best first, such as ('dpmpp_2m:4', 'dpmpp_2m:2')")
    if not names:
        raise UserError("no plans", "give one or more, best first, such as ('dpmpp_2m:4', 'dpmpp_2m:2')")
    return [_compile_plan(sampler, name, shaping) for name in names]


def _compile_plan(sampler: Sampler, name: str, shaping: Shaping | None) -> Plan:
    """The plan of that name. A scheduler's plan has the shaping of its configuration, which `shaping` may repeat."""
    if shaping is None or not isinstance(name, str) or not name.startswith(SCHEDULER):
        return sampler.compile(name, shaping=shaping)
    plan = sampler.compile(name)
    own = shaping_of(plan)
    if own != as_shaping(shaping):
        does = "shapes nothing" if own is None else f"has {own} by itself"
        raise UserError(f"plan {name!r} {does}, not {shaping}", "leave shaping out, or give SOLVER:STEPS")
    return plan
