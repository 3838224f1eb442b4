"""Inputs are joined once for the same ones, and no more results are kept than are asked for."""

import numpy as np

from fewstep.literature.streams.steady_feeds import SteadyFeeds


def fed(number: float) -> dict[str, np.ndarray]:
    return {"row": np.full((1, 2), number, np.float32), "group": np.array([3])}


def test_the_same_inputs_are_joined_once() -> None:
    a, b, c = fed(1), fed(2), fed(1)
    join = SteadyFeeds(["group"], calls=2)
    made = join([a, b])
    np.testing.assert_array_equal(made["row"], [[1, 1], [2, 2]])
    assert made["group"] is a["group"]
    assert join([a, b]) is made
    other = join([c, b])  # equal, and another object
    assert other is not made and join([c, b]) is other and join([a, b]) is made
    assert join([b]) is b
    assert join([a, b]) is not made  # of three results the first is gone
