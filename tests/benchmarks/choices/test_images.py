"""benchmarks/choices/images.py: a mean error by position, and the same by channel."""

import runpy
from pathlib import Path

import numpy as np

SCRIPT = runpy.run_path(str(Path(__file__).parents[3] / "benchmarks/choices/images.py"))


def test_a_channel_has_the_mean_of_its_positions() -> None:
    images = np.arange(2 * 3 * 4.0).reshape(2, 3, 4)  # groups, positions, channels
    found = SCRIPT["by_channel"](images, 2)
    np.testing.assert_array_equal(found[:, 1], images.mean(axis=1))
    assert found.shape == images.shape and not np.ptp(found, axis=1).any()
    np.testing.assert_array_equal(SCRIPT["by_channel"](images, 1)[..., 0], images.mean(axis=2))


def test_figures_have_the_mean_and_the_tail() -> None:
    assert SCRIPT["shown"](np.arange(101.0)) == "50.0 / 5.0"
