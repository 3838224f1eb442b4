"""The steps that a run from an image has at a strength, and the messages that name its first noise level.

By default a strength is the fraction of the steps that is run, so that plans of few steps run fewer, or start at a
noise far from the strength. `AllSteps` keeps the number of steps: they get shorter.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from math import ceil, inf
from numbers import Real
from typing import TYPE_CHECKING

from fewstep.plans.errors import UserError
from fewstep.plans.plan import Plan
from fewstep.plans.schedule import Time
from fewstep.plans.warnings import warn_once

if TYPE_CHECKING:
    from fewstep.plans.names.plan_name import PlanName  # loads all solvers

NEAR = 0.010001  # share of the steps; a start that is nearer to the strength is not mentioned
EXACT = 1e-3  # share of the steps; the largest distance of the start of `AllSteps` from its strength, if a grid allows
FINEST = 1000  # steps of the finest grid from which `AllSteps` takes its times
STRIDES = 8  # finest grids in which a noise level is searched
NEAR_NOISE = 0.02  # largest relative distance of the first noise from the one that is asked for
StrengthRule = Callable[[float, int], int]  # strength and number of steps -> the number of steps that are run
GridOf = Callable[[int], Sequence[Time]]  # number of steps -> its times, one more, from noisy to clean


@dataclass(frozen=True)
class AllSteps:
    """All steps of the plan run from the image, as most networks of few steps need. Give one of:

    strength: in (0, 1]: the fraction of the plan's grid that the steps divide.
    noise: the noise level at which the run starts: the factor of the noise that is added to the image, in (0, 1] for a
        flow. It is the sigma of the schedule.
    """

    strength: float | None = None
    noise: float | None = None

    def __post_init__(self) -> None:
        if (self.strength is None) == (self.noise is None):
            raise UserError(f"{self} does not have exactly one start", "give either a strength or a noise")
        if self.strength is not None:
            check_strength(self.strength)
        elif not (isinstance(self.noise, Real) and not isinstance(self.noise, bool) and 0 < float(self.noise) < inf):
            raise UserError(f"noise {self.noise!r} is not above 0", "give the factor of the noise, such as 0.3")


Strength = float | AllSteps


def strength_of(strength: float | None, keep_steps: bool, start_noise: float | None) -> Strength | None:
    """Return where a run from an image starts, by the options of the command line; None starts from noise. Raises
    UserError for options that contradict each other, and for numbers that are out of range."""
    if keep_steps and strength is None:
        raise UserError("--keep-steps needs a second option", "add --strength 0.6")
    if strength is not None and start_noise is not None:
        raise UserError("--strength and --start-noise both set the first noise", "leave one of them out")
    if start_noise is not None:
        return AllSteps(noise=start_noise)
    return AllSteps(strength) if keep_steps else strength


def is_share(value: object) -> bool:
    """Return whether a value is a number from 0 to 1 other than a boolean."""
    return isinstance(value, Real) and not isinstance(value, bool) and 0 <= float(value) <= 1


def count_steps(strength: float, steps: int) -> int:
    """Return the number of steps, at least 1, that a plan by name runs from an image. They are the last of its grid."""
    check_strength(strength)
    return max(1, round(strength * steps))


def check_strength(strength: object) -> None:
    """Raise UserError unless a strength is in (0, 1]."""
    if not is_share(strength) or strength == 0:
        raise UserError(f"strength {strength!r} is not in (0, 1]", "give the share of the steps to run, such as 0.6")


def share_of(strength: Strength | None) -> float | None:
    """Return the share of a plan's steps that is run from an image, before it is rounded. None starts from noise."""
    return 1.0 if isinstance(strength, AllSteps) else strength


def refuse_all_steps(strength: Strength | None, plan: object) -> float | None:
    """Return a strength for a plan that has its own steps. Raises UserError for `AllSteps`."""
    if isinstance(strength, AllSteps):
        what = f"plan '{plan}' has its own steps, and a strength runs only some of them"
        raise UserError(what, "give a strength alone, or SOLVER:STEPS")
    return strength


def times_of(strength: Strength | None, grid: GridOf, plan: "PlanName") -> Sequence[Time]:
    """Return the times of the steps that a plan by name runs, from noise or from an image."""
    if strength is None:
        return grid(plan.steps)
    if isinstance(strength, AllSteps):
        return _times_of_all_steps(strength, grid, plan.steps, plan.reference.text)
    return grid(plan.steps)[-count_steps(strength, plan.steps) - 1 :]


def _times_of_all_steps(start: AllSteps, grid: GridOf, steps: int, name: str) -> Sequence[Time]:
    """Return `steps` + 1 times that begin at a strength or a noise level, as equal parts of a finer grid of the same
    kind. Raises UserError for a grid of a fixed number of steps, and for a noise that the grid does not reach."""
    finest = FINEST if start.noise is None else _finest_steps(start.noise, grid, name)
    strength = _strength_of(start.noise, grid, finest, name) if start.strength is None else float(start.strength)
    if strength == 1:
        return grid(steps)
    best: tuple[float, int, int] | None = None
    most = max(1, int(finest * strength / steps))
    for stride in range(most, 0 if start.noise is None else max(0, most - STRIDES), -1):  # the finest grid first
        count = stride * steps
        total = max(count, round(count / strength))
        total = total if start.noise is None else _total_at(start.noise, grid, count, finest, total)
        if (best is None or best[0] > EXACT) and _has_steps(grid, total):
            first = tuple(grid(total))[total - count]
            distance = abs(count / total - strength) if start.noise is None else abs(first.sigma / start.noise - 1)
            best = min(best or (inf, 0, 0), (distance, total, stride))
        if best is not None and best[0] <= EXACT:
            break
    if best is None or best[0] > (NEAR if start.noise is None else NEAR_NOISE):
        raise _no_such_start(start, None if best is None else tuple(grid(best[1]))[best[1] - best[2] * steps], name)
    _, total, stride = best
    return tuple(grid(total))[total - stride * steps :: stride]


def _no_such_start(start: AllSteps, nearest: Time | None, name: str) -> UserError:
    """Return the error for a start that no grid has. `nearest` is the start that one has."""
    if start.noise is not None and nearest is not None:
        what = f"plan {name!r} cannot run all steps from noise {start.noise:g}: the nearest that its grid has is"
        return UserError(f"{what} {nearest.sigma:.3g}", "give that noise, or name another grid, such as @trailing")
    at = f"noise {start.noise:g}" if start.strength is None else f"strength {start.strength:g}"
    what = f"plan {name!r} cannot run all steps from {at}: its grid takes no such number of steps"
    return UserError(what, "name another grid, such as @trailing, or leave out keep-steps and start-noise")


def _total_at(noise: float, grid: GridOf, count: int, finest: int, guess: int) -> int:
    """Return the number of steps, up to `finest`, of the grid whose last `count` steps start nearest to a noise level.
    More steps start at less noise. `guess` is tried too, since a grid may lack some numbers of steps."""

    def excess(total: int) -> float:
        return tuple(grid(total))[total - count].sigma - noise if _has_steps(grid, total) else -inf

    low, high = count, max(count, finest)
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (middle, high) if excess(middle) > 0 else (low, middle)
    return min((low, high, guess), key=lambda total: abs(excess(total)))


def _finest_steps(noise: float, grid: GridOf, name: str) -> int:
    """Return the number of steps of the finest grid of a kind. Raises UserError for a grid of a fixed number."""
    if not (total := next((count for count in (FINEST, FINEST // 2, 100, 50, 20) if _has_steps(grid, count)), 0)):
        what = f"plan {name!r} cannot start at noise {noise:g}: its grid takes no other number of steps"
        raise UserError(what, "name another grid, such as @trailing")
    return total


def _strength_of(noise: float | None, grid: GridOf, total: int, name: str) -> float:
    """Return the fraction of a grid of `total` steps below a noise level."""
    assert noise is not None, "one of the two is given"
    times = tuple(grid(total))[:-1]
    if not times[-1].sigma <= noise <= times[0].sigma * (1 + 1e-6):
        what = f"noise {noise:g} is outside the grid of plan {name!r}"
        raise UserError(what, f"give a noise in {times[-1].sigma:.3g} .. {times[0].sigma:.3g}")
    place = min(range(total), key=lambda index: abs(times[index].sigma - noise))
    return (total - place) / total


def _has_steps(grid: GridOf, steps: int) -> bool:
    try:
        return len(grid(steps)) == steps + 1
    except UserError:
        return False


def say_start(plan: Plan, strength: Strength | None, steps: int) -> None:
    """Log the number of steps and the first noise level of a plan of `AllSteps`, or as `warn_of_start` does."""
    if isinstance(strength, AllSteps):
        warn_once(f"{len(plan.steps)} steps run from the image{_describe_start(plan)}")
    elif strength is not None:
        warn_of_start(plan, strength, steps, count_steps)


def count_down(strength: float, steps: int) -> int:
    """Return the number of steps that most pipelines of diffusers run from an image. It may be 0."""
    return int(steps * strength)


def count_up(strength: float, steps: int) -> int:
    """Return the number of steps that pipelines of FLUX and of Stable Diffusion 3 run from an image."""
    return steps - int(steps - steps * strength)


def least_strength(steps: int, total: int) -> float:
    """Return the least strength, with four decimals, of which `int(total * strength)` is at least `steps`."""
    tenths = ceil(10_000 * steps / total)
    return next(numerator / 10_000 for numerator in (tenths, tenths + 1) if int(total * (numerator / 10_000)) >= steps)


def warn_of_start(plan: Plan, strength: float, steps: int, rule: StrengthRule) -> None:
    """Log a warning if a plan starts at another noise level than its strength, because the strength is rounded to a
    step."""
    run = rule(strength, steps)
    if abs(run / steps - strength) <= NEAR:
        return
    line = f"strength {strength:g} is rounded to {run} of {steps} steps, which is {run / steps:.3g}"
    line += _describe_start(plan)
    warn_once(f"{line}; to run all {steps} steps from the strength, give --keep-steps" if rule is count_steps else line)


def _describe_start(plan: Plan) -> str:
    first = plan.steps[0]
    if first.alpha is None or first.sigma is None:
        return ""
    return f": the run starts at time {first.time:g}, with {first.alpha:.3g} image and {first.sigma:.3g} noise"
