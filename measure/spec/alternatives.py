"""Other interpretations of a spec that the prediction errors do not exclude: what they change, and whether samples
would differ."""

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from functools import cache
from itertools import pairwise
from math import inf, log10

import numpy as np
from numpy.typing import NDArray

from fewstep.measure.rollouts.conditions_file import ConditionRecords
from fewstep.measure.rollouts.nearness import NEAR_SNR
from fewstep.measure.spec.reading_errors import (
    ErrorsByLam,
    Network,
    denoise,
    measure_improvement,
    measure_significance,
    select_rows,
)
from fewstep.measure.spec.spec_mistakes import SpecReading
from fewstep.plans.errors import UserError
from fewstep.plans.noise import normal_batch
from fewstep.plans.schedule import NoiseSchedule
from fewstep.runtime.arrays import Float32

# A reading is excluded if its errors are larger in the mean, and smaller at no time, by this factor. A near reading is
# excluded if they are significantly larger in the mean. On analytic denoisers, the right beta_end was excluded for none
# of 58 wrong ones whose samples differ (for 1 without near readings); 17 of 37 right schedules were left open (16).
EXCLUDED = 1.02
SIGNIFICANT = 2.0  # standard errors
SAMPLES, STEPS = 4, 20  # of the comparison of samples
SNR_MARGIN = 3.0  # dB above NEAR_SNR, since 4 samples differ by chance from the mean of many
LOWEST, HIGHEST = -5.0, 5.0  # limits of log(alpha / sigma) along it, as for LAMS: beyond them x is noise, or data


@dataclass(frozen=True)
class Alternative:
    """An interpretation of the network other than the stated one, and the errors of its predictions."""

    reading: SpecReading
    errors: ErrorsByLam


def find_undecided(
    network: Network,
    stated: Alternative,
    others: Iterable[Alternative],
    data: Float32,
    conditions: ConditionRecords,
) -> dict[str, str]:
    """Return, as text, what the prediction errors do not decide about the spec ("whether ..."), by fact, each with the
    most likely mistake.

    Other interpretations of the network whose samples look like those of the stated one are not counted as mistakes.
    """
    values, power = select_rows(conditions, np.arange(min(SAMPLES, len(data)))), float(np.var(data, axis=0).mean())

    def draw(reading: SpecReading) -> NDArray[np.float64]:
        return _draw_samples(network, reading, data.shape[1:], power, values)

    draw_stated = cache(lambda: draw(stated.reading))  # drawn for the first alternative that needs them
    found = dict[str, tuple[float, str]]()
    for other in others:
        factor, at_one = measure_improvement(stated.errors, other.errors)
        is_clear = measure_significance(stated.errors, other.errors) > SIGNIFICANT
        is_worse = factor < 1 if other.reading.is_near else factor < 1 / EXCLUDED and at_one < EXCLUDED
        if is_worse and is_clear:
            continue
        fact, mistake = other.reading.fact, other.reading.mistake
        if factor > found.get(fact, (0.0, ""))[0] and not _samples_agree(draw_stated, draw, other.reading, power):
            found[fact] = factor, mistake
    return {fact: f"whether {mistake.partition(': ')[0]}" for fact, (_, mistake) in found.items()}


def _samples_agree(
    draw_stated: Callable[[], NDArray[np.float64]],
    draw: Callable[[SpecReading], NDArray[np.float64]],
    other: SpecReading,
    power: float,
) -> bool:
    """Return whether samples under two interpretations of the spec are so similar that few people would see a
    difference."""
    if other.fact == "range of the data":  # the samples are the same numbers, of another meaning
        return False
    try:
        one, another = draw_stated(), draw(other)
    except (UserError, ArithmeticError):  # the other schedule has no such run
        return False
    with np.errstate(over="ignore", invalid="ignore"):
        error = float(np.mean(np.square(one - another)))
    return np.isfinite(error) and 10 * log10(power / error if error else inf) >= NEAR_SNR + SNR_MARGIN


def _draw_samples(
    network: Network, reading: SpecReading, shape: tuple[int, ...], power: float, values: ConditionRecords
) -> NDArray[np.float64]:
    """Return samples [N, *shape] along steps of DDIM (arXiv 2010.02502) that are equal in log(alpha / sigma).

    power: the variance of the data. values: the conditions of the samples. Without conditions, N is `SAMPLES`.
    """
    schedule, shift = NoiseSchedule(reading.schedule), 0.5 * np.log(power or 1.0)
    low, high = max(schedule.noisiest.lam, LOWEST - shift), min(schedule.cleanest.lam, HIGHEST - shift)
    times = [schedule.time_at_lam(lam) for lam in np.linspace(low, high, STEPS + 1)]
    count = next((len(array) for array in values.values()), SAMPLES)
    x = times[0].sigma * normal_batch(range(count), 0, shape).astype(np.float64)
    x0 = x
    with np.errstate(over="ignore", invalid="ignore"):
        for s, t in pairwise(times):
            x0 = denoise(network, reading, x, s, values).astype(np.float64)
            x = t.alpha * x0 + t.sigma / s.sigma * (x - s.alpha * x0)
    return x0
