"""When a way has surely won, and the share of an error that is the same in all samples."""

from collections.abc import Sequence

import numpy as np
import pytest

from fewstep.calibration.choosing.evidence import Tried, Way, choose, constant_share


def found(psnr: Sequence[float], has_bias: bool = False) -> Tried:
    return Tried(Way("channels", has_bias), np.array(psnr, float), 0.0)


USUAL = [40.0, 42.0, 44.0, 46.0]


@pytest.mark.parametrize(
    ("others", "chosen"),
    [
        ([[41.0, 43.0, 45.0, 47.0]], 1),
        ([[40.9, 43.1, 45.0, 47.0], [41.0, 43.2, 45.0, 47.0]], 2),  # the best mean of two
        ([[40.0, 42.0, 44.0, 46.0]], 0),  # equal
        ([[36.0, 42.0, 50.0, 52.0]], 0),  # the worse half loses
        ([[40.0, 44.0, 41.0, 47.2]], 0),  # within the error of the difference
        ([[50.0, 50.0]], 0),  # left on the way
    ],
)
def test_the_usual_way_stays_unless_another_surely_beats_it(others: list[list[float]], chosen: int) -> None:
    assert choose([found(USUAL), *map(found, others)]) == chosen


def test_the_worst_samples_count_at_an_equal_mean() -> None:
    """Of 32 samples 8 are bad: 4 dB more there, for 1.1 dB less of the others."""
    usual = np.where(np.arange(32) % 4 == 0, 34.0, 44.0) + np.sin(np.arange(32))
    other = usual + np.where(np.arange(32) % 4 == 0, 4.0, -1.1) + 0.1 * np.cos(np.arange(32))
    assert choose([found(list(usual)), found(list(other))]) == 1
    assert choose([found(list(other)), found(list(usual))]) == 0


def test_the_constant_part_of_an_error_is_counted_by_channel() -> None:
    rng = np.random.default_rng(0)
    rough = np.resize([1.0, -1.0], (8, 2, 4, 4))
    assert constant_share(rough) == 0 and constant_share(np.zeros((2, 1, 3))) == 0
    assert constant_share(rough + np.array([1.0, -1.0]).reshape(1, 2, 1, 1)) == pytest.approx(0.5)
    assert constant_share(rng.normal(size=(64, 1, 8, 8))) < 0.01


def test_samples_that_are_no_numbers_never_win() -> None:
    fine, none = found([40.0, 42.0, 44.0, 46.0]), found([40.0, 42.0, np.nan, 46.0])
    assert choose([fine, none]) == 0 and choose([none, fine]) == 1
    assert choose([none, none]) == 0
    assert choose([found([-np.inf, 42.0, 44.0, 46.0]), fine]) == 1  # a sample is infinite
