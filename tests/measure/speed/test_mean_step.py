"""measure/speed/mean_step.py: how often a timed call runs each graph."""

import pytest

from fewstep.measure.speed.mean_step import LONGEST_CALL, steps_per_call


@pytest.mark.parametrize(
    ("steps", "shared"),
    [([8], [1]), ([4, 4], [1, 1]), ([3, 5], [3, 5]), ([6, 10], [3, 5]), ([21, 29], [5, 7]), ([1, 49], [1, 12])],
)
def test_a_call_has_the_shares_of_a_plan_in_few_steps(steps: list[int], shared: list[int]) -> None:
    assert steps_per_call(steps) == shared and sum(shared) <= LONGEST_CALL + 1
