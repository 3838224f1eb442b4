"""The recipe of a scheduler class: a schedule, times, a solver, and how a run starts and ends."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from math import exp, inf, sqrt
from numbers import Real
from typing import Any

from fewstep.plans import solvers
from fewstep.plans.configs.classes import SchedulerClass
from fewstep.plans.configs.config import SchedulerConfig
from fewstep.plans.errors import UserError
from fewstep.plans.schedule import CLEAN, Time
from fewstep.plans.shaping import Clip, Shaping, Threshold
from fewstep.plans.spec import ScheduleSpec
from fewstep.plans.symbol import Lin
from fewstep.plans.tracer import Solver, Tracer

MOST = 1e300  # an argument's size, so that arithmetic with it stays finite
NOWHERE = 1e-14  # how far, in log sigma, a step goes whose two ends are one point
LOWERED_BELOW = 15  # steps, from where on diffusers leaves lower_order_final unheeded


@dataclass(frozen=True)
class ScheduleRequest:
    """The request of a pipeline to its scheduler.

    arguments: what a pipeline passes to the scheduler: to `step` (eta, order) and to `set_timesteps` (mu).
    even: the pipeline also passes the sigmas of a flow, before their shift.
    timesteps, sigmas: the times that a caller passes, one for each step.
    strength: the steps are laid over this share of a distillation's timesteps, counted from the clean end.
    skipped: the first steps, which do not run because a run starts from an image.
    """

    steps: int
    arguments: Mapping[str, float] = field(default_factory=dict)
    even: bool = False
    timesteps: tuple[float, ...] | None = None
    sigmas: tuple[float, ...] | None = None
    strength: float = 1.0
    skipped: int = 0

    def argument(self, name: str, default: float) -> float:
        return self.arguments.get(name, default)


@dataclass(frozen=True)
class ScaledShaping:
    """The shaping of each predicted x0, after a multiplication by `gain`."""

    shaping: Shaping | None = None
    gain: float = 1.0


@dataclass(frozen=True)
class SchedulerRecipe:
    """The plan of a scheduler, before it is traced.

    start: standard deviation of the first x; None is the schedule's sigma there.
    scale: factor of the sample, for schedulers whose x is x / alpha of ours.
    """

    times: Sequence[Time]
    solver: Solver
    start: float | None = None
    scale: float = 1.0
    shaping: ScaledShaping = ScaledShaping()
    heads: int = 1


Recipe = Callable[[SchedulerConfig, ScheduleRequest, ScheduleSpec], SchedulerRecipe]


def check_shift(config: SchedulerConfig, field: str, shift: float) -> float:
    """The shift of a flow's sigmas. UserError if they would not stay sigmas of a flow."""
    if not 1e-3 <= shift <= 1e3:
        raise config.field_error(field, f"a shift by {shift:g}", "give a shift in 0.001 .. 1000")
    return float(shift)


def bounded_exp(mu: float) -> float:
    """e^mu; for a large mu a number that is beyond every range."""
    return exp(min(mu, 700.0))


def dynamic_shift(config: SchedulerConfig, mu: float) -> float:
    """The shift of `use_dynamic_shifting`: e^mu, or mu itself with time_shift_type linear."""
    linear = config["time_shift_type"] == "linear"
    if linear and mu <= 0:
        raise config.field_error("time_shift_type", f"a shift by mu = {mu:g}", "give a positive mu")
    return check_shift(config, "use_dynamic_shifting", mu if linear else bounded_exp(mu))


def bind_solver(solver: str, **parameters: Any) -> Solver:
    """A solver by its name, or a family by its name and order, with parameters; None leaves one at its default."""
    return partial(getattr(solvers, solver), **{name: each for name, each in parameters.items() if each is not None})


def variance_preserving_time(network: float, rho: float) -> Time:
    """A time of a variance-preserving schedule by sigma / alpha."""
    if rho == 0:
        return CLEAN
    return Time(network, 0.0, 1.0) if rho == inf else Time(network, 1 / sqrt(1 + rho * rho), rho / sqrt(1 + rho * rho))


def flow_time(network: float, sigma: float) -> Time:
    """A time of a flow by sigma."""
    return CLEAN if sigma == 0 else Time(network, 1 - sigma, sigma)


def variance_exploding_time(network: float, sigma: float) -> Time:
    """A time of a schedule with alpha = 1 by sigma."""
    return CLEAN if sigma == 0 else Time(network, 1.0, sigma)


def append_end(times: list[Time], way: int = 1) -> list[Time]:
    """The times with an end that a step can reach. Some schedulers end with a step to where they are: it costs an
    evaluation and changes nothing, but counts where the order falls in the last steps. It goes a hair's breadth, for
    `way` -1 to more noise."""
    s, t = times[-2:]
    if abs(t.lam - s.lam) > 1e-5:
        return times
    hair = way * NOWHERE
    return [*times[:-1], Time(t.network, s.alpha * (1 + hair * s.sigma**2), s.sigma * (1 - hair * s.alpha**2))]


class _FromSample(Tracer):
    """A tracer whose solvers start from the given tensor "x"."""

    def start(self) -> Lin:
        return self.given("x")


def invert_solver(solver: Solver) -> Solver:
    """The solver from the clean end to the noise, starting from a given sample."""

    def inverse(trace: Tracer, times: Sequence[Time]) -> Lin:
        return solver(_FromSample(**vars(trace)), times[::-1])

    return inverse


def shaping_of(config: SchedulerConfig) -> ScaledShaping:
    """Dynamic thresholding goes before clipping, as in diffusers.

    It divides by a quantile within 1 .. sample_max_value, which is sample_max_value itself where that is below 1.
    """
    fields = config.fields
    if fields.get("thresholding"):
        most = float(fields["sample_max_value"])
        if not most > 0:
            raise config.field_error("sample_max_value", "x0 is divided by it", "give a number above 0")
        if most <= 1:
            return ScaledShaping(Clip(-1.0, 1.0), 1 / most)
        return ScaledShaping(Threshold(fields["dynamic_thresholding_ratio"], most))
    if fields.get("clip_sample"):
        return ScaledShaping(Clip(-fields["clip_sample_range"], fields["clip_sample_range"]))
    return ScaledShaping()


def uses_lower_order_final(config: SchedulerConfig, request: ScheduleRequest) -> bool:
    """diffusers heeds lower_order_final only where steps are few."""
    return bool(config["lower_order_final"]) and request.steps < LOWERED_BELOW


def check_numbers(source: str, arguments: Mapping[str, float] | None) -> Mapping[str, float]:
    """The arguments that a pipeline passes on. UserError if one is no finite number."""
    if arguments is not None and not isinstance(arguments, Mapping):
        raise UserError(f"{source}: arguments {arguments!r} are no names and numbers", 'give {"eta": 0.5}')
    for name, value in (arguments or {}).items():
        if isinstance(value, bool) or not isinstance(value, Real) or not -MOST < value < MOST:
            raise UserError(f"{source}: argument {name!r} is {value!r}, not a finite number", f"give {name} a number")
    return arguments or {}


def check_choices(config: SchedulerConfig, request: ScheduleRequest, scheduler: SchedulerClass) -> None:
    """UserError for an argument, or the value of a field, that the class does not take."""
    for name in request.arguments:
        if name not in scheduler.arguments:
            takes = f"it takes {', '.join(scheduler.arguments)}" if scheduler.arguments else "it takes none"
            raise UserError(f"{config.source}: {config.scheduler} has no argument {name!r}", takes)
    for name, (values, fix) in scheduler.choices.items():
        if config[name] not in values:
            raise config.field_error(name, "the class does not have it", fix)
