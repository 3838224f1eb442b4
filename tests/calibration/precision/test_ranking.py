"""The order in which operations leave int8, and the expected quality for each number of them."""

import numpy as np
import pytest

from fewstep.calibration.precision.operation_errors import OperationErrors
from fewstep.calibration.precision.ranking import Ranking, rank_operations

NAMES = ("a", "b", "c", "d")


def ranking(errors: tuple[float, ...], times: tuple[float, ...], signal: float = 1.0) -> Ranking:
    names = NAMES[: len(errors)]
    return rank_operations(OperationErrors(names, np.array(errors), signal), np.array(times))


def test_those_that_int8_makes_slower_go_first_and_then_the_most_error_for_the_time() -> None:
    found = ranking((1e-4, 4e-4, 0.0, 3e-4), (0.1, 0.2, 0.0, 0.1))
    assert (found.order, found.slower_count) == ((2, 3, 1, 0), 1)
    assert found.left == pytest.approx([8e-4, 8e-4, 5e-4, 1e-4, 0.0])
    assert found.time == pytest.approx([0.0, 0.0, 0.1, 0.3, 0.4])


def test_names_are_in_the_order_of_the_graph() -> None:
    found = ranking((1e-4, 4e-4, 0.0, 3e-4), (0.1, 0.2, 0.0, 0.1))
    assert [found.first_operations(count) for count in (0, 1, 3)] == [(), ("c",), ("b", "c", "d")]


def test_quality_is_that_of_the_errors_that_are_left() -> None:
    """With a peak of 2, a mean squared error of 4e-4 is 40 dB."""
    assert ranking((1e-4, 3e-4), (0.1, 0.9)).quality[:2] == pytest.approx([40.0, 41.25], abs=0.01)
