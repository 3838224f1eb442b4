"""Tails that half of the trajectories did not show, by analytic distributions."""

import logging

import numpy as np
import pytest
from numpy.typing import NDArray

from fewstep.calibration.count import Half
from fewstep.ranges.growth import GREW, reaches, still_growing
from fewstep.ranges.histogram import measure, merge
from fewstep.ranges.observe import Counts

TRAJECTORIES = 64


def quantiles(count: int, tail: float) -> NDArray[np.float32]:
    """The expected order of `count` values whose magnitude goes beyond x with a chance of x ** -tail; uniform ones for
    an infinite tail."""
    share = (np.arange(count) + 1) / count
    return (share if np.isinf(tail) else share[::-1] ** (-1 / tail)).astype(np.float32)


def counts_of(half: NDArray[np.float32], whole: NDArray[np.float32]) -> tuple[Half, Counts]:
    """Of two channels: one that is always 0.1, and one with these values in the first half, then in all."""

    def tensor(values: NDArray[np.float32]) -> NDArray[np.float32]:
        return np.stack([np.full_like(values, 0.1), values], axis=1)

    first = measure(tensor(half), axis=1)
    counts = Counts(("a",), (), {("a", 0): first}, samples=TRAJECTORIES)
    kept = Half(TRAJECTORIES // 2)
    kept.see(counts, TRAJECTORIES // 2)
    counts.histograms["a", 0] = merge(first, measure(tensor(whole), axis=1))
    return kept, counts


@pytest.mark.parametrize(
    ("tail", "share"),
    [
        (np.inf, 0.0),  # uniform: all was seen
        (4.0, 1 - 2 ** (-1 / 4)),  # twice the values reach 2 ** (1 / tail) times as far
        (0.5, 1 - 2 ** (-1 / 0.5)),
    ],
)
def test_growth_is_as_the_tail_has_it(tail: float, share: float) -> None:
    half, counts = counts_of(quantiles(512, tail), quantiles(1024, tail))
    grown = still_growing(half.reached or {}, counts.histograms)
    assert bool(grown) == (share > GREW)
    for each in grown:
        assert (each.tensor, each.group, each.channel) == ("a", 0, 1) and each.share == pytest.approx(share, rel=1e-3)


def test_quiet_channels_count_by_the_reach_of_the_whole_activation() -> None:
    """Ten times as far, and still a tenth of the loudest channel."""
    loud = np.array([[1.0, 0.01]], np.float32)
    before, after = measure(loud, axis=1), measure(np.array([[1.0, 0.1]], np.float32), axis=1)
    assert still_growing(reaches({("a", 0): before}), {("a", 0): after}) == ()


def test_one_line_names_the_activation_and_the_fix(caplog: pytest.LogCaptureFixture) -> None:
    half, counts = counts_of(quantiles(512, 0.5), quantiles(1024, 0.5))
    with caplog.at_level(logging.WARNING):
        half.warn(counts)
    assert caplog.messages == [
        "1 of 1 activations still grew in the last half of the trajectories, 'a' most (channel 1, by 75 % of its"
        " reach): samples to come may be clipped; follow more (--trajectories 128)"
    ]


def test_a_light_tail_is_no_warning(caplog: pytest.LogCaptureFixture) -> None:
    half, counts = counts_of(quantiles(512, np.inf), quantiles(1024, np.inf))
    half.warn(counts)
    Half(1).warn(counts)  # nothing was seen
    assert not caplog.messages
