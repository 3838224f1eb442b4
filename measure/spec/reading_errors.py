"""Errors of a network's predictions under one interpretation of its spec: noised samples, each denoised in one call."""

from collections.abc import Callable, Mapping
from typing import Any

import msgspec
import numpy as np
from numpy.typing import NDArray

from fewstep.measure.rollouts.conditions_file import ConditionRecords
from fewstep.measure.spec.spec_mistakes import SpecReading
from fewstep.plans.errors import UserError
from fewstep.plans.noise import normal_batch
from fewstep.plans.prediction import check_prediction, input_scale, x0_coefficients
from fewstep.plans.schedule import NoiseSchedule, Time
from fewstep.runtime.arrays import Float32

LAMS = (-3.0, -1.5, 0.0, 1.5, 3.0, 4.5)  # log(alpha / sigma) for data of standard deviation 1; else shifted
RIGHT = 1.2  # limit of a trained network's error over the linear denoiser's, as geometric mean over times
Network = Callable[[Float32, NDArray[np.float64], ConditionRecords], Float32]  # x, times, conditions -> output


class ErrorsAtTime(msgspec.Struct, frozen=True):
    """The squared errors of the network and of the linear denoiser at a time, both divided by the data's variance."""

    time: float
    error: float
    linear: float


ErrorsByLam = Mapping[float, ErrorsAtTime]  # the keys are numbers of `LAMS`


def measure_errors(
    network: Network, reading: SpecReading, data: Float32, conditions: ConditionRecords, rows: NDArray[Any]
) -> ErrorsByLam:
    """Return the errors of the network's predictions under one interpretation of its spec, on some rows of the data, by
    log-SNR. Only log-SNRs of `LAMS` within the schedule are used."""
    every = np.asarray(reading.data(data), np.float32)
    schedule, x0 = NoiseSchedule(reading.schedule), every[rows]
    variance = every.astype(np.float64).var(axis=0)
    power = float(np.mean(np.square(every - every.mean(axis=0), dtype=np.float64))) or 1e-12
    values = select_rows(conditions, rows)
    noise, found = normal_batch(range(len(x0)), 0, x0.shape[1:]), dict[float, ErrorsAtTime]()
    low, high = schedule.noisiest.lam, min(schedule.cleanest.lam, max(LAMS))
    for of_unit in LAMS:
        lam = of_unit - 0.5 * np.log(power)
        if not low < lam < high:
            continue
        time = schedule.time_at_lam(lam)
        check_prediction(reading.prediction, time, reading.schedule)
        x = (time.alpha * x0 + time.sigma * noise).astype(np.float32)
        with np.errstate(over="ignore", invalid="ignore"):  # an overflow is a large error, too
            denoised = denoise(network, reading, x, time, values)
            error = np.mean(np.square(denoised - x0, dtype=np.float64)) / power
        linear = np.mean(variance * time.sigma**2 / (time.alpha**2 * variance + time.sigma**2)) / power
        found[of_unit] = ErrorsAtTime(time.network, float(error), float(linear))
    if not found:
        raise UserError(f"schedule {schedule.name} has no time that can be checked", "compare samples by eye")
    return found


def denoise(
    network: Network, reading: SpecReading, x: NDArray[np.floating], time: Time, values: ConditionRecords
) -> NDArray[np.floating]:
    """Return the x0 [N, *x_shape] that the network predicts for x, under one interpretation of its inputs and outputs
    (`reading`)."""
    fed = (input_scale(reading.prediction, time, reading.schedule) * x).astype(np.float32)
    output = network(fed, np.full(len(x), reading.time(time.network)), values)[:, : x.shape[1]]
    a, b = x0_coefficients(reading.prediction, time, reading.schedule)
    return a * x + reading.sign * b * output


def select_rows(conditions: ConditionRecords, rows: NDArray[Any]) -> ConditionRecords:
    """Return the values of these rows for each condition."""
    return {name: array[rows] for name, array in conditions.items()}


def score_errors(errors: ErrorsByLam) -> float:
    """Return the geometric mean, over log-SNRs, of the network's error divided by that of the best linear denoiser;
    infinite if an error is not finite."""
    return _mean(np.array([_ratio(each) for each in errors.values()]))


def measure_improvement(stated: ErrorsByLam, corrected: ErrorsByLam) -> tuple[float, float]:
    """Return the geometric mean and the maximum of the ratios of errors, stated spec over corrected spec, at the
    log-SNRs that both have. Both are 0 if they share none, or if a corrected error is not finite."""
    both = [lam for lam in stated if lam in corrected]
    before, after = (np.array([_ratio(errors[lam]) for lam in both]) for errors in (stated, corrected))
    if not both or not np.isfinite(after).all():
        return 0.0, 0.0
    return _mean(before / after), float(np.max(before / after))


def _ratio(errors: ErrorsAtTime) -> float:
    return max(errors.error, 1e-9) / max(errors.linear, 1e-9)


def _mean(ratios: NDArray[np.float64]) -> float:
    return float(np.exp(np.log(ratios).mean())) if np.isfinite(ratios).all() else float("inf")
