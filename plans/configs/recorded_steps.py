"""Plans of a scheduler whose steps were recorded at export, since fewstep has no rules for its class.

A recording holds for one number of steps. Step i goes from the network's input u_i to the next one, or to the sample:

    u_{i+1} = x u_i + first u_0 + sum_j outputs_j o_{i-j} + sum_k noise_k z_k

o_i is the guided output of step i. All numbers are those of the pipeline's own run.
"""

from collections.abc import Mapping
from typing import Any

from fewstep.plans.compile import check_guidance
from fewstep.plans.configs.recorded import RecordedSteps, read_recorded
from fewstep.plans.errors import UserError
from fewstep.plans.guidance import Guidance
from fewstep.plans.plan import Plan
from fewstep.plans.prediction import input_scale, x0_coefficients
from fewstep.plans.schedule import NoiseSchedule, Time
from fewstep.plans.shaping import GuidedShaping
from fewstep.plans.spec import DenoiserFacts
from fewstep.plans.state_rows import build_plan
from fewstep.plans.symbol import Lin
from fewstep.plans.tracer import Tracer


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
    name, chosen, rules = f"scheduler:{steps}", stored.get(steps), read_recorded(fields)
    if chosen is None:
        numbers = " and ".join(f"scheduler:{number}" for number in sorted(stored))
        raise UserError(
            f"plan {name!r}: the bundle has the recorded steps of its scheduler, {fields.get('_class_name')}, as "
            f"{numbers} only",
            f"give one of these or SOLVER:STEPS, or export again with --call num_inference_steps={steps}",
        )
    form, schedule = check_guidance(guidance, denoiser), NoiseSchedule(denoiser.schedule)
    times = [schedule.time(step.time) for step in chosen.steps]
    tracer = Tracer(denoiser, times[0], schedule, form, rules.shaping if rules else None)
    return build_plan(name, tracer, _follow(tracer, chosen, times), form, None, None, ())


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
    if not isinstance(trace.shaping, GuidedShaping):
        x, (output, *_) = trace.outputs(x, time, to)  # a learned variance is not read
        return x, output
    x, x0 = trace.denoise(x, time, to)
    a, b = x0_coefficients(trace.prediction, time, trace.schedule.spec)
    return x, (x0 - a * x) / b
