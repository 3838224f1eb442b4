"""Steps whose scheduler gets a sum of the network's outputs plus a multiple of x."""

from dataclasses import replace

from fewstep.pipelines.recording.call_record import CallRecord, SchedulerStep, branch_outputs
from fewstep.pipelines.recording.element_map import boxes
from fewstep.pipelines.recording.fit import TOLERANCE, fit


def adds_x(record: CallRecord) -> bool:
    """Return True if a pipeline adds a multiple of x to its network's outputs, as one that converts a predicted x0 to a
    velocity does."""
    factors = _fit_with_x(record.steps[0])
    return factors is not None and abs(factors[1]) > TOLERANCE


def remove_x(record: CallRecord) -> CallRecord:
    """Return the recording with each step that passes the scheduler s times a sum of the network's outputs plus a
    multiple of x rewritten to pass only the sum, whose weights sum to 1. Other steps are unchanged."""
    steps = []
    for step in record.steps:
        factors = _fit_with_x(step)
        if factors is not None:
            total, of_x = factors
            output = (step.model_output.double() - of_x * step.sample.double()) / total
            step = replace(step, model_output=output.float())
        steps.append(step)
    return replace(record, steps=tuple(steps))


def _fit_with_x(step: SchedulerStep) -> tuple[float, float] | None:
    """Return the sum of the weights of the network's outputs, and the weight of x, if their sum is what the scheduler
    receives. Otherwise None."""
    target, outputs = step.model_output, branch_outputs(step)
    if target.shape != step.sample.shape or not outputs:
        return None
    for place in boxes(tuple(target.shape[1:]), tuple(outputs[0].shape[1:])):
        (*weights, of_x), residual = fit([*map(place, outputs), step.sample], target)
        if residual <= TOLERANCE and abs(sum(weights)) > TOLERANCE:
            return sum(weights), of_x
    return None
