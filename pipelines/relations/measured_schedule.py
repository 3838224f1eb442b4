"""Measure the noise schedule and the prediction type of a scheduler whose class fewstep does not know.

The scheduler's own function that adds noise to a sample gives alpha and sigma at the times of a recording. The last
step ends at the predicted x0, from which it follows what the network predicts.
"""

from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import torch

from fewstep.pipelines.recording.stand_ins import recording_error
from fewstep.plans.configs.recorded import RecordedStep, RecordedSteps
from fewstep.plans.configs.schedules import Described
from fewstep.plans.errors import UserError
from fewstep.plans.prediction import check_prediction, x0_coefficients
from fewstep.plans.schedule import NoiseSchedule, Time, spec_problem
from fewstep.plans.spec import Prediction, ScheduleSpec

TOLERANCE = 1e-4
LEVELS, SLOPE = 257, 1e-6  # times at which an unknown schedule is measured, and a relative change over all of them
PREDICTIONS: tuple[Prediction, ...] = ("epsilon", "sample", "v", "flow")


def measure_schedule(scheduler: Any, recorded: RecordedSteps) -> Described:
    """Return the noise schedule and the prediction type of a scheduler, measured at the times of recorded steps. These
    times are still set in the scheduler.

    Raises UserError, which names the scheduler's class, if they match no known schedule or prediction type.
    """
    spec = find_noise_schedule(scheduler, [step.time for step in recorded.steps])
    return spec, _find_prediction(type(scheduler).__name__, NoiseSchedule(spec), recorded.steps)


def find_noise_schedule(scheduler: Any, times: Sequence[float]) -> ScheduleSpec:
    """Return a noise schedule that has the same noise levels as a scheduler at `times`, which are among the scheduler's
    current timesteps.

    Raises UserError, which names the scheduler's class, if no known schedule has them.
    """
    name, levels = type(scheduler).__name__, [_noise_level(scheduler, time) for time in times]
    if any(level is None for level in levels):
        raise recording_error(f"{name} has no scale_noise or add_noise that shows its noise schedule")
    for spec in _candidates(scheduler, max(times)):
        schedule = NoiseSchedule(spec)
        with np.errstate(all="ignore"):
            if all(_agrees(schedule, time, level) for time, level in zip(times, levels, strict=True)):
                return spec
    raise recording_error(
        f"the noise levels of {name} match neither a flow, nor its alphas_cumprod, nor a table measured with its "
        "function that adds noise"
    )


def check_prediction_of_config(name: str, described: Described, recorded: RecordedSteps) -> bool:
    """Return True if the last recorded step ends at the x0 that follows from the prediction type in a scheduler's
    config. Return False if it ends at the x0 of no prediction type, so that nothing can be concluded. Raises UserError
    if it ends at the x0 of another prediction type."""
    spec, prediction = described
    schedule = NoiseSchedule(spec)
    try:
        times = [schedule.time(step.time) for step in recorded.steps]
    except UserError:
        return False
    with np.errstate(all="ignore"):
        found = [
            prediction for prediction in PREDICTIONS if _agrees_at_end(prediction, schedule, recorded.steps[-1], times)
        ]
    if found and prediction not in found:
        raise recording_error(
            f"the config of {name} says that its network predicts {prediction}, but its last step ends at the x0 of "
            f"{' or '.join(found)}"
        )
    return bool(found)


def _noise_level(scheduler: Any, time: float) -> tuple[float, float] | None:
    """Return (alpha, sigma) at a time, measured with the scheduler's own noising method: alpha is the result for a
    sample of 1 with noise 0, sigma the result for a sample of 0 with noise 1. Return None if the scheduler has no
    method that accepts these."""
    sample, noise, times = torch.tensor([[1.0], [0.0]]), torch.tensor([[0.0], [1.0]]), torch.tensor([time, time])
    steps = getattr(scheduler, "timesteps", None)
    if isinstance(steps, torch.Tensor):
        times = times.to(steps.dtype)
    for function, arguments in (("scale_noise", (sample, times, noise)), ("add_noise", (sample, noise, times))):
        if hasattr(scheduler, function):
            try:
                noised = getattr(scheduler, function)(*arguments)
            except Exception:  # an error of any class
                continue
            return float(noised[0]), float(noised[1])
    return None


def _candidates(scheduler: Any, last: float) -> Iterator[ScheduleSpec]:
    """Yield the schedules that a scheduler may have. `last` is its noisiest time."""
    count = scheduler.config.get("num_train_timesteps", 1000)
    yield ScheduleSpec("flow", timesteps=count)
    bars = getattr(scheduler, "alphas_cumprod", None)
    if isinstance(bars, torch.Tensor) and bars.ndim == 1 and len(bars) > 1:
        products = np.concatenate([[1.0], bars.double().numpy()])
        betas = 1 - products[1:] / products[:-1]
        if np.isfinite(betas).all() and ((betas > 0) & (betas < 1)).all():
            yield ScheduleSpec("betas", timesteps=len(betas), betas=tuple(map(float, betas)))
    if last > 0 and (table := _measure_table(scheduler, last)) is not None:
        yield table


def _measure_table(scheduler: Any, last: float) -> ScheduleSpec | None:
    """Return the noise levels at times from 0 to `last`, or None if the scheduler does not noise samples at some of
    them. Levels that are clipped, so that they are equal, get a slope below the tolerance."""
    levels = [_noise_level(scheduler, float(time)) for time in np.linspace(0.0, last, LEVELS)]
    known = [level for level in levels if level is not None]
    if len(known) < LEVELS:
        return None
    slopes = 1 - SLOPE * np.linspace(0, 1, LEVELS)
    alphas = tuple(float(alpha * slope) for (alpha, _), slope in zip(known, slopes, strict=True))
    spec = ScheduleSpec("table", alphas=alphas, sigmas=tuple(sigma for _, sigma in known), time_scale=last)
    return spec if spec_problem(spec) is None else None


def _agrees(schedule: NoiseSchedule, time: float, level: tuple[float, float] | None) -> bool:
    try:
        point = schedule.time(time)
    except UserError:
        return False
    return level is not None and np.allclose(level, (point.alpha, point.sigma), atol=TOLERANCE)


def _find_prediction(name: str, schedule: NoiseSchedule, steps: Sequence[RecordedStep]) -> Prediction:
    """Return the prediction type of a scheduler's network, by elimination. Candidates are the types whose x0 is the
    result of the last step, or all types if there are none. Of several, those remain for which the other steps that use
    neither noise nor earlier outputs are first-order steps. If none remains, steps with noise are compared with the
    mean of the posterior. Raises UserError unless exactly one remains."""
    times = [schedule.time(step.time) for step in steps]
    at_end = [prediction for prediction in PREDICTIONS if _agrees_at_end(prediction, schedule, steps[-1], times)]
    alone = [number for number, step in enumerate(steps[:-1]) if _is_alone(step)]
    found = at_end or [prediction for prediction in PREDICTIONS if alone and _is_defined(prediction, schedule, times)]
    if len(found) > 1 or not at_end:
        found = [
            each
            for each in found
            if all(_is_first_order(each, schedule, steps[at], times[at], times[at + 1]) for at in alone)
        ]
    if not found and any(step.noise for step in steps):
        found = [prediction for prediction in PREDICTIONS if _is_posterior(prediction, schedule, steps[:-1], times)]
    if len(found) != 1:
        raise recording_error(
            f"the last step of {name} does not show what its network predicts: {' or '.join(found) or 'it is not x0'}"
        )
    return found[0]


def _is_alone(step: RecordedStep) -> bool:
    """Return whether a step reads only x and the output of its own evaluation, without noise, earlier outputs or the
    first x."""
    return len(step.outputs) == 1 and not step.noise and not step.first


def _agrees_at_end(prediction: Prediction, schedule: NoiseSchedule, last: RecordedStep, times: Sequence[Time]) -> bool:
    """Return True if a prediction is defined at all times, and its x0 is the result of the last step."""
    if not _is_defined(prediction, schedule, times):
        return False
    expected = x0_coefficients(prediction, times[-1], schedule.spec)
    return _is_alone(last) and _is_close((last.x, last.outputs[0]), expected)


def _is_defined(prediction: Prediction, schedule: NoiseSchedule, times: Sequence[Time]) -> bool:
    """Return True if a prediction determines x0 at all times."""
    try:
        for time in times:
            check_prediction(prediction, time, schedule.spec)
            x0_coefficients(prediction, time, schedule.spec)
    except UserError:
        return False
    return True


def _is_first_order(prediction: Prediction, schedule: NoiseSchedule, step: RecordedStep, s: Time, t: Time) -> bool:
    """Return True if a step is alpha_t x0 + sigma_t eps (DDIM: Song et al. 2021)."""
    a, b = x0_coefficients(prediction, s, schedule.spec)
    of_x0 = t.alpha - t.sigma * s.alpha / s.sigma
    return _is_close((step.x, step.outputs[0]), (t.sigma / s.sigma + of_x0 * a, of_x0 * b))


def _is_posterior(
    prediction: Prediction, schedule: NoiseSchedule, steps: Sequence[RecordedStep], times: Sequence[Time]
) -> bool:
    """Return True if the means of steps are those of q(x_t | x_s, x0), as in DDPM (Ho et al. 2020, equation 7)."""
    if not steps or not _is_defined(prediction, schedule, times):
        return False
    for step, s, t in zip(steps, times, times[1:], strict=False):
        a, b = x0_coefficients(prediction, s, schedule.spec)
        kept = s.alpha / t.alpha
        of_x, of_x0 = kept * t.sigma**2 / s.sigma**2, t.alpha * (1 - kept**2 * t.sigma**2 / s.sigma**2)
        if len(step.outputs) != 1 or not _is_close((step.x, step.outputs[0]), (of_x + of_x0 * a, of_x0 * b)):
            return False
    return True


def _is_close(found: tuple[float, float], expected: tuple[float, float]) -> bool:
    return bool(np.allclose(found, expected, rtol=TOLERANCE, atol=TOLERANCE))
