"""Errors of a network's predictions under one interpretation of its spec: noised samples, each denoised in one call."""

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

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
SMALLEST = 1e-9  # share of the data's variance; smaller errors are rounding
Network = Callable[[Float32, NDArray[np.float64], ConditionRecords], Float32]  # x, times, conditions -> output


@dataclass(frozen=True)
class ErrorsAtTime:
    """The mean squared errors of the network at a time, [N] for N samples, and that of the linear denoiser; both are
    divided by the data's variance."""

    time: float
    of_samples: NDArray[np.float64]
    linear: float

    @property
    def error(self) -> float:
        """The mean over the samples."""
        return float(np.mean(self.of_samples))


ErrorsByLam = Mapping[float, ErrorsAtTime]  # the keys are numbers of `LAMS`


@dataclass(frozen=True)
class NoisedSamples:
    """Samples x0 of the data and x, the same with the noise of one time, both [N, *x_shape].

    of_unit: the number of `LAMS`. power: the variance of the data. linear: the error of the linear denoiser.
    """

    of_unit: float
    time: Time
    x: Float32
    x0: Float32
    power: float
    linear: float

    def errors(self, predicted: NDArray[np.floating]) -> ErrorsAtTime:
        """Return the errors of x0 as a network predicts it."""
        with np.errstate(over="ignore", invalid="ignore"):  # an overflow is a large error, too
            return ErrorsAtTime(self.time.network, mean_squares(predicted - self.x0) / self.power, self.linear)


def measure_errors(
    network: Network, reading: SpecReading, data: Float32, conditions: ConditionRecords, rows: NDArray[Any]
) -> ErrorsByLam:
    """Return the errors of the network's predictions under one interpretation of its spec, on some rows of the data, by
    log-SNR. Only log-SNRs of `LAMS` within the schedule are used."""
    values = select_rows(conditions, rows)
    return {
        each.of_unit: each.errors(denoise(network, reading, each.x, each.time, values))
        for each in add_noise(reading, data, rows)
    }


def add_noise(reading: SpecReading, data: Float32, rows: NDArray[Any]) -> Iterator[NoisedSamples]:
    """Yield these rows of the data with noise of each log-SNR of `LAMS` within the schedule.

    Raises UserError if there is none, or if the schedule does not support the prediction.
    """
    every = np.asarray(reading.data(data), np.float32)
    schedule, variance, x0 = NoiseSchedule(reading.schedule), every.astype(np.float64).var(axis=0), every[rows]
    power = float(np.mean(np.square(every - every.mean(axis=0), dtype=np.float64))) or 1e-12
    noise, shift = normal_batch(range(len(x0)), 0, x0.shape[1:]), 0.5 * np.log(power)
    low, high = schedule.noisiest.lam, min(schedule.cleanest.lam, max(LAMS))
    within = [of_unit for of_unit in LAMS if low < of_unit - shift < high]
    if not within:
        raise UserError(f"schedule {schedule.name} has no time that can be checked", "compare samples by eye")
    for of_unit in within:
        time = schedule.time_at_lam(of_unit - shift)
        check_prediction(reading.prediction, time, reading.schedule)
        x = (time.alpha * x0 + time.sigma * noise).astype(np.float32)
        linear = np.mean(variance * time.sigma**2 / (time.alpha**2 * variance + time.sigma**2)) / power
        yield NoisedSamples(of_unit, time, x, x0, power, float(linear))


def mean_squares(difference: NDArray[np.floating]) -> NDArray[np.float64]:
    """Return the mean square [N] of each sample of a difference [N, *x_shape]."""
    return np.asarray(np.mean(np.square(difference, dtype=np.float64), axis=tuple(range(1, difference.ndim))))


def denoise(
    network: Network, reading: SpecReading, x: NDArray[np.floating], time: Time, values: ConditionRecords
) -> NDArray[np.floating]:
    """Return the x0 [N, *x_shape] that the network predicts for x, under one interpretation of its inputs and outputs
    (`reading`)."""
    with np.errstate(over="ignore", invalid="ignore"):
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
    return _mean(np.array([_ratio(error) for error in errors.values()]))


def measure_improvement(stated: ErrorsByLam, corrected: ErrorsByLam) -> tuple[float, float]:
    """Return the geometric mean and the maximum of the ratios of errors, stated spec over corrected spec, at the
    log-SNRs that both have. Both are 0 if they share none, or if a corrected error is not finite."""
    both = [lam for lam in stated if lam in corrected]
    before, after = (np.array([_ratio(errors[lam]) for lam in both]) for errors in (stated, corrected))
    if not both or not np.isfinite(after).all():
        return 0.0, 0.0
    return _mean(before / after), float(np.max(before / after))


def measure_significance(stated: ErrorsByLam, other: ErrorsByLam) -> float:
    """Return by how many standard errors the errors of another interpretation are larger than those of the stated spec,
    in the geometric mean over the log-SNRs that both have. The standard error is that of the jackknife over the
    samples (Efron 1982). It is infinite if they share no log-SNR, or if an error of the other one is not finite."""
    both = [lam for lam in stated if lam in other]
    if not both:
        return np.inf
    before, after = (np.maximum([errors[lam].of_samples for lam in both], SMALLEST) for errors in (stated, other))
    if not np.isfinite(after).all():
        return np.inf
    without = [(errors.sum(axis=1, keepdims=True) - errors) for errors in (before, after)]  # one sample each
    logs = np.log(without[1] / without[0]).mean(axis=0)
    error = np.sqrt((len(logs) - 1) * np.mean(np.square(logs - logs.mean())))
    return float(np.log(after.sum(axis=1) / before.sum(axis=1)).mean() / max(error, SMALLEST))


def _ratio(errors: ErrorsAtTime) -> float:
    return max(errors.error, SMALLEST) / max(errors.linear, SMALLEST)


def _mean(ratios: NDArray[np.float64]) -> float:
    return float(np.exp(np.log(ratios).mean())) if np.isfinite(ratios).all() else float("inf")
