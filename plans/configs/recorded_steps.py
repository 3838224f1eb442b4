"""Plans of a scheduler whose steps were recorded at export, since fewstep has no rules for its class.

A recording holds for one number of steps. Step i goes from the network's input u_i to the next one, or to the sample:

    u_{i+1} = x u_i + first u_0 + sum_j outputs_j o_{i-j} + sum_k noise_k z_k

o_i is the guided output of step i. All numbers are those of the pipeline's own run.
"""

from collections.abc import Mapping
from itertools import count
from math import isfinite
from typing import Any

import msgspec

from fewstep.plans.compile import check_guidance
from fewstep.plans.configs.pipelines import CORRECT, RECORDED, STORED_STEPS, read_change, recording_problem
from fewstep.plans.errors import UserError
from fewstep.plans.guidance import Guidance
from fewstep.plans.plan import Plan
from fewstep.plans.prediction import input_scale, x0_coefficients
from fewstep.plans.schedule import NoiseSchedule, Time
from fewstep.plans.shaping import GUIDED
from fewstep.plans.spec import DenoiserFacts, Strict
from fewstep.plans.state_rows import build_plan
from fewstep.plans.symbol import Lin
from fewstep.plans.tracer import Tracer

LIMIT = 1e30  # largest magnitude of a number
DRAWS_LIMIT = 2**20  # largest number of a draw


class RecordedStep(Strict, frozen=True, omit_defaults=True):
    """One step of a scheduler, as a weighted sum. `x` and `first` are the weights of x and of the first x. `outputs`
    are the weights of this step's network output, of the previous step's, and so on. `noise` are pairs of a draw's
    number, counted from 0 over all steps, and its weight. `time` is the scheduler's time; `to` is the time at which the
    step ends, for networks that take it."""

    time: float
    x: float
    outputs: tuple[float, ...]
    noise: tuple[tuple[int, float], ...] = ()
    first: float = 0.0
    to: float | None = None


class RecordedSteps(Strict, frozen=True):
    """All steps of a run. `start` is the factor of the noise in the network's first input."""

    start: float
    steps: tuple[RecordedStep, ...]

    @property
    def draws(self) -> tuple[int, ...]:
        """The numbers of the draws that the steps read, in increasing order."""
        return tuple(sorted({number for step in self.steps for number, _ in step.noise}))


def read_steps(fields: Mapping[str, Any]) -> dict[int, RecordedSteps] | None:
    """Return the recorded steps of a scheduler's config by their number of steps; None if it has none.

    Raises UserError if they cannot be read.
    """
    if (problem := recording_problem(fields)) is not None:
        raise UserError(f"scheduler config: {problem}", CORRECT)
    stored = (fields.get(RECORDED) or {}).get(STORED_STEPS)
    if stored is None:
        return None
    try:
        read = msgspec.convert(stored, dict[str, RecordedSteps])
        found = {int(number): steps for number, steps in read.items()}
    except (msgspec.ValidationError, ValueError) as error:
        raise UserError(f"scheduler config: {RECORDED}.{STORED_STEPS}: {error}", CORRECT) from None
    for number, steps in found.items():
        if (problem := _steps_problem(steps)) is not None:
            raise UserError(f"scheduler config: {RECORDED}.{STORED_STEPS}[{number}] {problem}", CORRECT)
    if not found:
        raise UserError(f"scheduler config: {RECORDED}.{STORED_STEPS} is empty", CORRECT)
    return found


def compile_recorded_steps(
    stored: Mapping[int, RecordedSteps],
    steps: int,
    denoiser: DenoiserFacts,
    fields: Mapping[str, Any],
    guidance: float | Guidance | None = None,
) -> Plan:
    """Return the plan of a recorded run of `steps` steps.

    fields: the scheduler's config. Raises UserError for a number of steps that was not recorded, and for CFG++ and
    steering, which act on x0.
    """
    name, recorded = f"scheduler:{steps}", stored.get(steps)
    if recorded is None:
        numbers = " and ".join(f"scheduler:{number}" for number in sorted(stored))
        raise UserError(
            f"plan {name!r}: the bundle has the recorded steps of its scheduler, {fields.get('_class_name')}, as "
            f"{numbers} only",
            f"give one of these or SOLVER:STEPS, or export again with --call num_inference_steps={steps}",
        )
    form, schedule = check_guidance(guidance, denoiser), NoiseSchedule(denoiser.schedule)
    times = [schedule.time(step.time) for step in recorded.steps]
    tracer = Tracer(denoiser, times[0], schedule, form, read_change(fields))
    return build_plan(name, tracer, _follow(tracer, recorded, times), form, None, None, ())


def _follow(trace: Tracer, recorded: RecordedSteps, times: list[Time]) -> Lin:
    """Trace the steps that were recorded from a scheduler, and return the sample."""
    first = u = trace.store(recorded.start * trace.noise())
    noise = {number: trace.noise() for number in recorded.draws}
    outputs: list[Lin] = []
    for step, time in zip(recorded.steps, times, strict=True):
        scale = input_scale(trace.prediction, time, trace.schedule.spec)
        x, output = _evaluate(trace, u / scale, time, None if step.to is None else trace.schedule.time(step.to))
        outputs.insert(0, output)
        after = step.x * scale * x + step.first * first
        for factor, each in zip(step.outputs, outputs, strict=False):
            after = after + factor * each
        for number, factor in step.noise:
            after = after + factor * noise[number]
        u = trace.store(after)
    return u


def _evaluate(trace: Tracer, x: Lin, time: Time, to: Time | None) -> tuple[Lin, Lin]:
    """Return x as stored in a state row, and the network's guided output. With shaping, it is the output that implies
    the shaped x0."""
    if not isinstance(trace.shaping, GUIDED):
        x, (output, *_) = trace.outputs(x, time, to)  # a learned variance is not read
        return x, output
    x, x0 = trace.denoise(x, time, to)
    a, b = x0_coefficients(trace.prediction, time, trace.schedule.spec)
    return x, (x0 - a * x) / b


def _steps_problem(recorded: RecordedSteps) -> str | None:
    """Return what is wrong with recorded steps, as text, or None if nothing is."""
    if not recorded.steps:
        return "has no steps"
    numbers = [recorded.start]
    for index, step in zip(count(1), recorded.steps):
        numbers += [step.time, step.x, step.first, step.to or 0.0, *step.outputs, *(factor for _, factor in step.noise)]
        if not 1 <= len(step.outputs) <= index:
            return f"has {len(step.outputs)} outputs in step {index}"
        if not all(0 <= number < DRAWS_LIMIT for number, _ in step.noise):
            return f"has a draw out of range in step {index}"
    return (
        None if all(isfinite(each) and abs(each) < LIMIT for each in numbers) else "has a number that is out of range"
    )
