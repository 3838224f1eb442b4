"""When a candidate has surely won."""

import numpy as np
import pytest

from fewstep.calibration.choosing.evidence import beats

USUAL = [40.0, 42.0, 44.0, 46.0]


@pytest.mark.parametrize(
    ("candidate", "wins"),
    [
        ([41.0, 43.0, 45.0, 47.0], True),
        ([40.0, 42.0, 44.0, 46.0], False),  # equal
        ([36.0, 42.0, 50.0, 52.0], False),  # the worse half loses
        ([40.0, 44.0, 41.0, 47.2], False),  # within the error of the difference
        ([50.0, 50.0], False),  # left on the way
    ],
)
def test_the_default_stays_unless_a_candidate_surely_beats_it(candidate: list[float], wins: bool) -> None:
    assert beats(np.array(candidate), np.array(USUAL)) is wins


def test_the_worst_samples_count_at_an_equal_mean() -> None:
    """Of 32 samples 8 are bad: 4 dB more there, for 1.1 dB less of the others."""
    usual = np.where(np.arange(32) % 4 == 0, 34.0, 44.0) + np.sin(np.arange(32))
    other = usual + np.where(np.arange(32) % 4 == 0, 4.0, -1.1) + 0.1 * np.cos(np.arange(32))
    assert beats(other, usual) and not beats(usual, other)


def test_samples_that_are_no_numbers_never_win() -> None:
    fine, none = np.array([40.0, 42.0, 44.0, 46.0]), np.array([40.0, 42.0, np.nan, 46.0])
    assert not beats(none, fine) and beats(fine, none) and not beats(none, none)
    assert beats(fine, np.array([-np.inf, 42.0, 44.0, 46.0]))  # a sample is infinite
