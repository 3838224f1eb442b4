"""Corrections and schedules of cached features, on features that are known."""

import numpy as np
import pytest

from lab.cache_trials import fit_lines, schedule, search


def test_a_channel_that_is_a_line_of_the_held_one_is_corrected_exactly() -> None:
    """Step 2 is light, and reads the features of step 1."""
    first, held = np.random.default_rng(0).standard_normal((2, 3, 2, 4, 4))
    factors, offsets = np.array([2.0, -0.5])[:, None, None], np.array([1.0, 3.0])[:, None, None]
    ((step, (factor, offset)),) = fit_lines([first, held, factors * held + offsets], {2: held}).items()
    assert step == 2 and (factor.ravel(), offset.ravel()) == (pytest.approx([2, -0.5]), pytest.approx([1, 3]))


def test_full_steps_are_where_the_features_jump() -> None:
    features = [np.full((1, 1), float(value)) for value in (0, 0, 0, 5, 5, 9, 9, 9)]
    assert schedule(features, 3) == [1, 2, 4, 6, 7]


def test_the_search_finds_the_best_list_of_light_steps() -> None:
    """Each step is worth its own number, so the six largest of 1 to 11 are best."""
    assert search(lambda light: float(sum(light)), 12, 6, [[1, 2, 3, 4, 5, 6]]) == [6, 7, 8, 9, 10, 11]
