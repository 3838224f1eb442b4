"""Distances of samples from the mean and the standard deviation of the data."""

import numpy as np
import pytest

from fewstep.measure.rollouts.data_distance import compare_with_teacher, distance_from_data

DATA = (0.5, 2.0)  # mean and standard deviation


def drawn(mean: float, deviation: float, seeds: int = 10) -> np.ndarray:
    values = np.random.default_rng(0).normal(size=(seeds, 1, 8, 8))
    return (mean + deviation * (values - values.mean()) / values.std()).astype(np.float32)


def test_the_distance_is_that_of_two_normal_distributions() -> None:
    assert distance_from_data(drawn(0.5, 2.0), DATA) == pytest.approx(0, abs=1e-6)
    assert distance_from_data(drawn(1.5, 1.0), DATA) == pytest.approx((1.0**2 + 1.0**2) / 4, abs=1e-5)
    assert distance_from_data(np.full((4, 2), 0.5, np.float32), DATA) == 1  # all samples are the mean of the data


@pytest.mark.parametrize(
    ("judged", "teacher", "is_further"),
    [
        ((0.5, 2.0), (0.5, 3.0), True),
        ((0.5, 3.0), (0.5, 2.0), False),  # as for other denoisers
        ((0.5, 2.0), (0.5, 2.1), False),  # less than LEAST
    ],
)
def test_a_teacher_that_leaves_the_data_is_found(
    judged: tuple[float, float], teacher: tuple[float, float], is_further: bool
) -> None:
    compared = compare_with_teacher(drawn(*judged, seeds=16), drawn(*teacher), DATA)
    assert compared is not None and compared.is_further is is_further and compared.seeds == 10


def test_one_sample_that_differs_is_chance() -> None:
    """Its distance is larger than LEAST, and so is the standard error."""
    teacher = drawn(*DATA)
    teacher[0] *= 4
    compared = compare_with_teacher(drawn(*DATA), teacher, DATA)
    assert compared is not None and compared.teacher > 0.1 and not compared.is_further


def test_few_seeds_say_nothing() -> None:
    assert compare_with_teacher(drawn(*DATA), drawn(0.5, 9.0, seeds=7), DATA) is None
