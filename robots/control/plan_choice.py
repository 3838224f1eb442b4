"""Choose the plan of the next sequence by the measured latency of each plan."""

import math
from collections import deque
from collections.abc import Iterable, Sequence
from statistics import median

from fewstep.plans.any_plan import PlanLike, parse_plan_reference, shaping_of
from fewstep.plans.errors import UserError
from fewstep.plans.names.plan_reference import SchedulerReference
from fewstep.plans.plan import Plan
from fewstep.plans.shaping import Shaping, as_shaping
from fewstep.robots.control.latency import latency_quantile
from fewstep.robots.control.policy_plans import compile_policy_plan
from fewstep.runtime.sampling.sampler import Sampler

WINDOW = 200  # calls that a quantile is taken over
RECENT = 20  # calls from which the expected delay is computed
PATIENCE = 200  # calls without this plan after which its warm-up time is assumed again


class PlanTimes:
    """The times of a plan's last calls. The first of them are those of its warm-up. Without calls, and after PATIENCE
    calls for which the plan was not chosen, a call is assumed to take `usual` seconds.

    seconds: the 99th percentile of the last WINDOW calls. delay: the second longest of the last RECENT calls, so that
    one slow call does not delay the calls that follow it; the longest of fewer than three.
    """

    def __init__(self, seconds: Sequence[float], usual: float, is_warm: bool) -> None:
        self.usual, self.is_warm = usual, is_warm
        self.begin(seconds)

    def begin(self, seconds: Sequence[float]) -> None:
        """Replace the recorded calls by these. The plan is no longer skipped."""
        self._window, self._recent = deque(seconds, WINDOW), deque(seconds, RECENT)
        self.fails, self.passed_over = False, 0
        self._update()

    def add(self, seconds: float) -> None:
        self._window.append(seconds)
        self._recent.append(seconds)
        self._update()

    def _update(self) -> None:
        """Compute the figures, once per call, since ticks read them more often."""
        self.seconds = latency_quantile(self._window) if self._window else self.usual
        longest = sorted(self._recent)[-2:] or [self.usual]
        self.delay = longest[0 if len(self._recent) > 2 else -1]


class PlanChoice:
    """Chooses the best of `count` plans that meets the deadline of a tick. Plans are sorted from best to fastest;
    `place` is the index of a plan.

    A plan without measured calls is assumed to take `expected` seconds. The first call of a plan without a warm-up is
    not counted, since it is slower than all later ones.

    After PATIENCE calls without being chosen, a plan is assumed to take the median of its warm-up again. A high
    quantile of the warm-up would be its slowest call, so that a single slow call could exclude the plan forever.
    """

    def __init__(self, count: int, deadline: float, expected: float = 0.0) -> None:
        self._deadline, self._expected = deadline, expected
        self._plans = [PlanTimes([], expected, is_warm=False) for _ in range(count)]

    def record_warm_up(self, place: int, seconds: Sequence[float]) -> None:
        """Initialise a plan with the seconds of its warm-up calls.

        Negative and infinite times, which result from a jump of the clock, are left out. If none remains, the plan is
        skipped for PATIENCE calls.
        """
        sound = [duration for duration in seconds if math.isfinite(duration) and duration >= 0]
        self._plans[place] = PlanTimes(sound, median(sound or [self._expected]), is_warm=True)
        self._plans[place].fails = not sound

    def record_call(self, place: int, seconds: float) -> None:
        """Add the seconds of a plan's successful call, finite and 0 or more."""
        plan = self._plans[place]
        if plan.is_warm:
            plan.add(seconds)
        plan.is_warm, plan.fails = True, False

    def record_failure(self, place: int) -> None:
        """Skip a plan whose call failed, as if it were too slow."""
        self._plans[place].fails = True

    def seconds(self, place: int) -> float:
        """Return the seconds of a plan's call: the 99th percentile of its last calls."""
        return self._plans[place].seconds

    def delay(self, place: int) -> float:
        """Return the seconds that the next call of a plan is expected to take. One slow call does not change them."""
        return self._plans[place].delay

    def choose(self) -> int:
        """Return the index of the first plan that meets the deadline. If none does, return the index of the last plan,
        which is the cheapest: all calls that are stopped at the deadline take the same time, so their times cannot be
        compared."""
        keep = (place for place, plan in enumerate(self._plans) if plan.seconds <= self._deadline and not plan.fails)
        chosen = next(keep, len(self._plans) - 1)
        for place, plan in enumerate(self._plans):
            plan.passed_over = 0 if place == chosen else plan.passed_over + 1
            if plan.passed_over >= PATIENCE:
                plan.begin([])
        return chosen


def compile_plans(sampler: Sampler, names: Sequence[str | Plan] | str, shaping: Shaping | None) -> list[Plan]:
    """Compile plans for a sampler. A string is one plan."""
    names = [names] if isinstance(names, str) else names
    if not isinstance(names, Iterable):
        raise UserError(f"plans is {names!r}", "give one or more, best first, such as ('dpmpp_2m:4', 'dpmpp_2m:2')")
    if not names:
        raise UserError("plans is empty", "give one or more, best first, such as ('dpmpp_2m:4', 'dpmpp_2m:2')")
    return [_compile_plan(sampler, name, shaping) for name in names]


def _compile_plan(sampler: Sampler, plan: PlanLike, shaping: Shaping | None) -> Plan:
    """Compile a plan. A scheduler's plan has the shaping of its config, which `shaping` may repeat."""
    reference = parse_plan_reference(plan)
    if shaping is None:
        return compile_policy_plan(sampler, reference)
    if not isinstance(reference, SchedulerReference):
        return sampler.compile(reference, shaping=shaping)
    compiled = sampler.compile(reference)
    own = shaping_of(compiled)
    if own != as_shaping(shaping):
        has = "has no shaping" if own is None else f"has the shaping {own} from its config"
        raise UserError(f"plan '{reference}' {has}, not {shaping}", "leave shaping out, or give SOLVER:STEPS")
    return compiled
