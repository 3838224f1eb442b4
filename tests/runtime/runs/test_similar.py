"""The filter skips with the published probability, by chance that a seed and an index decide."""

import numpy as np
import pytest

from fewstep.runtime.runs import Similar


def at_cosine(cosine: float) -> tuple[np.ndarray, np.ndarray]:
    return np.array([1.0, 0.0]), np.array([cosine, np.sqrt(1 - cosine**2)])


@pytest.mark.parametrize(("cosine", "expected"), [(1.0, 1.0), (0.995, 0.75), (0.985, 0.25), (0.98, 0.0), (0.5, 0.0)])
def test_the_probability_is_the_paper_s(cosine: float, expected: float) -> None:
    before, now = at_cosine(cosine)
    share = np.mean([Similar(0.98).skips(now, before, 7, index) for index in range(1000)])
    assert share == pytest.approx(expected, abs=0.04)


def test_chance_is_a_function_of_seed_and_index() -> None:
    before, now = at_cosine(0.99)
    first = [Similar().skips(now, before, 1, index) for index in range(50)]
    assert first == [Similar().skips(now, before, 1, index) for index in range(50)]
    assert first != [Similar().skips(now, before, 2, index) for index in range(50)]


def test_black_frames_are_like_black_frames_alone() -> None:
    black, grey = np.zeros(4), np.ones(4)
    assert Similar().skips(black, black, 0, 0)
    assert not Similar().skips(grey, black, 0, 0)
