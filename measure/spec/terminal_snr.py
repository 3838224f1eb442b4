"""Check whether a network was trained on a schedule with zero terminal SNR, from its response to noise.

A v-prediction network returns v = (alpha x - x0) / sigma. In directions in which the data hardly vary, x0 does not
follow x, and so the slope of v in x is alpha / sigma. Near the last timestep, this slope differs clearly between a
schedule and the same schedule with zero terminal SNR (Lin et al. 2024, arXiv 2305.08891, Algorithm 1).
"""

from collections.abc import Callable

import msgspec
import numpy as np
from numpy.typing import NDArray

from fewstep.measure.spec.spec_mistakes import FLAG, FLAG_KINDS, flag_mistake
from fewstep.plans.noise import normal_batch
from fewstep.plans.schedule import NoiseSchedule, Time
from fewstep.plans.spec import DenoiserFacts
from fewstep.runtime.arrays import Float32

LEAST_ALPHA = 0.02  # least alpha of the last timestep; below it, the flag changes samples by less than 8-bit rounding
QUIET = 0.1  # most variance of the data, relative to the noise's, in the directions that are used
LEAST_QUIET = 1 / 16  # share of all directions that have to be quiet
LAST = 0.2  # share of the timesteps that are evaluated, at the noisy end
TIMES = 4
CLEAR = 0.35  # largest distance from a flag's expected slopes, as a share of the difference between both flags


def check_terminal_snr(
    evaluate: Callable[[Float32, float], Float32], facts: DenoiserFacts, data: Float32, x0: Float32
) -> tuple[str, str]:
    """Return (mistake, unknown) as text, "" for none. A mistake is named if the network contradicts the flag
    `zero_terminal_snr`, and the flag is unknown if the network's outputs cannot decide.

    evaluate: a function from x [B, *x_shape], with B = len(x0), and a time to the output. data: all samples, [N,
        *x_shape]. x0: the samples that are noised. Both texts are empty if the flag is right, or hardly changes the
        schedule.
    """
    spec = facts.schedule
    if spec.kind not in FLAG_KINDS or spec.timesteps < TIMES / LAST:
        return "", ""
    stated, other = (
        NoiseSchedule(msgspec.structs.replace(spec, zero_terminal_snr=flag))
        for flag in (spec.zero_terminal_snr, not spec.zero_terminal_snr)
    )
    if max(stated.noisiest.alpha, other.noisiest.alpha) < LEAST_ALPHA:
        return "", ""
    unknown = f"whether the schedule has {FLAG}={spec.zero_terminal_snr}"
    if facts.prediction != "v":
        return "", f"{unknown}, from predictions of {facts.prediction!r}"
    axes, variance = tuple(range(2, data.ndim)), _variances(data)
    quiet = variance < QUIET
    if quiet.mean() < LEAST_QUIET:
        return "", f"{unknown}, since the data vary like noise in all directions"
    share = _share_of_other(evaluate, (stated, other), x0, np.broadcast_to(quiet, x0.shape[1:]), axes)
    if abs(share) <= CLEAR:
        return "", ""
    if abs(share - 1) <= CLEAR:
        return flag_mistake(spec), ""
    return "", f"{unknown}: near the last timestep the network follows neither value"


def _share_of_other(
    evaluate: Callable[[Float32, float], Float32],
    schedules: tuple[NoiseSchedule, NoiseSchedule],
    x0: Float32,
    quiet: NDArray[np.bool_],
    axes: tuple[int, ...],
) -> float:
    """Return to which of two schedules the network's derivatives correspond: 0 for the stated schedule, 1 for the other
    one, and a value between them by linear interpolation."""
    noise = normal_batch(range(len(x0)), 0, x0.shape[1:])
    z = _spectrum(noise, axes)[:, quiet]
    product = square = 0.0
    last = schedules[0].noisiest.network
    for step in range(TIMES):
        t = round(last - step * LAST * last / TIMES)
        time, other = (schedule.time(t) for schedule in schedules)
        plus, minus = (
            evaluate((time.alpha * x0 + sign * time.sigma * noise).astype(np.float32), float(t)) for sign in (1, -1)
        )
        response = _spectrum(0.5 * (plus.astype(np.float64) - minus), axes)[:, quiet]  # x0's own part cancels
        measured = float(np.sum(np.conj(z) * response).real / np.sum(np.abs(z) ** 2)) / time.sigma
        difference = _slope(other) - _slope(time)
        product += (measured - _slope(time)) * difference
        square += difference**2
    return product / square if np.isfinite(product) else float("inf")


def _slope(time: Time) -> float:
    """Return the slope of v in x, in directions in which the data do not vary."""
    return time.alpha / time.sigma


def _variances(data: Float32) -> NDArray[np.float64]:
    """Return the variance [C, *axes] of the data in each direction: a spatial frequency of a channel, or an element."""
    axes = tuple(range(2, data.ndim))
    power = np.mean(np.abs(_spectrum(data - data.mean(axis=0, dtype=np.float64), axes)) ** 2, axis=0)
    return np.asarray(power, np.float64)


def _spectrum(x: NDArray[np.floating], axes: tuple[int, ...]) -> NDArray[np.complex128]:
    """Return the unitary Fourier transform over the axes. White noise keeps its variance of 1."""
    return np.fft.fftn(x, axes=axes, norm="ortho") if axes else x.astype(np.complex128)
