"""The recipe of a scheduler class: times, a solver, and the scales of a run's start and end."""

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

MOST = 1e300  # limit of an argument, so that arithmetic with it remains finite
NOWHERE = 1e-14  # length in log sigma of a step whose two ends coincide
LOWERED_BELOW = 15  # number of steps from which diffusers ignores lower_order_final


@dataclass(frozen=True)
class ScheduleRequest:
    """The request of a pipeline to its scheduler.

    arguments: the arguments of `step` (eta, order) and of `set_timesteps` (mu).
    even: whether the pipeline also passes the sigmas of a flow, before their shift.
    timesteps, sigmas: the times that a caller passes, one for each step.
    strength: the steps cover this fraction of a distillation's timesteps, from the clean end.
    skipped: the number of first steps that do not run because the run starts from an image.
    shaping: the shaping of the guided output, which the pipeline applies before the scheduler's step.
    """

    steps: int
    arguments: Mapping[str, float] = field(default_factory=dict)
    even: bool = False
    timesteps: tuple[float, ...] | None = None
    sigmas: tuple[float, ...] | None = None
    strength: float = 1.0
    skipped: int = 0
    shaping: Shaping | None = None

    def argument(self, name: str, default: float) -> float:
        return self.arguments.get(name, default)


@dataclass(frozen=True)
class ScaledShaping:
    """The shaping of each predicted x0. x0 is first multiplied by `gain`."""

    shaping: Shaping | None = None
    gain: float = 1.0


@dataclass(frozen=True)
class SchedulerRecipe:
    """The plan of a scheduler, before it is traced.

    start: standard deviation of the first x; None means the schedule's sigma there.
    scale: factor of the sample, for schedulers whose x is a plan's x / alpha.
    """

    times: Sequence[Time]
    solver: Solver
    start: float | None = None
    scale: float = 1.0
    shaping: ScaledShaping = ScaledShaping()
    heads: int = 1


Recipe = Callable[[SchedulerConfig, ScheduleRequest, ScheduleSpec], SchedulerRecipe]


def check_shift(config: SchedulerConfig, field: str, shift: float) -> float:
    """Return the shift of a flow's sigmas. Raises UserError if it is out of range."""
    if not 1e-3 <= shift <= 1e3:
        raise config.field_error(field, f"the shift {shift:g} is out of range", "give a shift in 0.001 .. 1000")
    return float(shift)


def finite_exp(mu: float) -> float:
    """Return e^mu. For a large mu, where it would overflow, return a finite number outside every valid range."""
    return exp(min(mu, 700.0))


def dynamic_shift(config: SchedulerConfig, mu: float) -> float:
    """Return the shift of `use_dynamic_shifting`: e^mu, or mu itself with time_shift_type linear."""
    linear = config["time_shift_type"] == "linear"
    if linear and mu <= 0:
        raise config.field_error("time_shift_type", f"the shift is mu = {mu:g}", "give a positive mu")
    return check_shift(config, "use_dynamic_shifting", mu if linear else finite_exp(mu))


def bind_solver(solver: str, **parameters: Any) -> Solver:
    """Return a solver by its name, or by the name and order of a family, with parameters. A parameter of None keeps its
    default."""
    return partial(
        getattr(solvers, solver), **{name: parameter for name, parameter in parameters.items() if parameter is not None}
    )


def variance_preserving_time(network: float, rho: float) -> Time:
    """Return the time of a variance-preserving schedule with this sigma / alpha."""
    if rho == 0:
        return CLEAN
    return Time(network, 0.0, 1.0) if rho == inf else Time(network, 1 / sqrt(1 + rho * rho), rho / sqrt(1 + rho * rho))


def flow_time(network: float, sigma: float) -> Time:
    """Return the time of a flow with this sigma."""
    return CLEAN if sigma == 0 else Time(network, 1 - sigma, sigma)


def variance_exploding_time(network: float, sigma: float) -> Time:
    """Return the time of a schedule with alpha = 1 and this sigma."""
    return CLEAN if sigma == 0 else Time(network, 1.0, sigma)


def append_end(times: list[Time], way: int = 1) -> list[Time]:
    """Return the times, with an end that differs from the time before it.

    Some schedulers end with a step of length 0. It costs an evaluation and does not change x, but it counts when the
    order decreases in the last steps. Such a step gets the length NOWHERE here, towards less noise, or towards more
    noise if `way` is -1."""
    s, t = times[-2:]
    if abs(t.lam - s.lam) > 1e-5:
        return times
    length = way * NOWHERE
    return [*times[:-1], Time(t.network, s.alpha * (1 + length * s.sigma**2), s.sigma * (1 - length * s.alpha**2))]


class _FromSample(Tracer):
    """A tracer whose solvers start from the given tensor "x"."""

    def start(self) -> Lin:
        return self.given("x")


def invert_solver(solver: Solver) -> Solver:
    """Return a solver that runs from the clean end to the noise, and starts from a given sample."""

    def inverse(trace: Tracer, times: Sequence[Time]) -> Lin:
        return solver(_FromSample(**vars(trace)), times[::-1])

    return inverse


def shaping_of(config: SchedulerConfig) -> ScaledShaping:
    """Return the shaping of a config. Dynamic thresholding has precedence over clipping, as in diffusers.

    Thresholding divides by a quantile that is clipped to 1 .. sample_max_value. A sample_max_value below 1 is itself
    the divisor.
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
    """True if the order decreases in the last steps. diffusers ignores lower_order_final unless steps are few."""
    return bool(config["lower_order_final"]) and request.steps < LOWERED_BELOW


def check_numbers(source: str, arguments: Mapping[str, float] | None) -> Mapping[str, float]:
    """Return the arguments that a pipeline passes. Raises UserError if one is not a finite number."""
    if arguments is not None and not isinstance(arguments, Mapping):
        raise UserError(f"{source}: arguments {arguments!r} is not a mapping", 'write it as {"eta": 0.5}')
    for name, value in (arguments or {}).items():
        if isinstance(value, bool) or not isinstance(value, Real) or not -MOST < value < MOST:
            raise UserError(f"{source}: argument {name!r} is {value!r}, not a finite number", f"give {name} a number")
    return arguments or {}


def check_choices(config: SchedulerConfig, request: ScheduleRequest, scheduler: SchedulerClass) -> None:
    """Raise UserError for an argument, or the value of a field, that the class does not accept."""
    for name in request.arguments:
        if name not in scheduler.arguments:
            fix = f"give one of {', '.join(scheduler.arguments)}" if scheduler.arguments else "leave it out"
            raise UserError(f"{config.source}: {config.scheduler} has no argument {name!r}", fix)
    for name, (values, fix) in scheduler.choices.items():
        if config[name] not in values:
            raise config.field_error(name, "the class does not support this value", fix)
