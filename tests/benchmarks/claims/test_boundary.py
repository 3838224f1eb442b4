"""The boundary between two classes, and how far states are moved along its normal."""

import numpy as np

from benchmarks.claims.boundary import Boundary, normal


def test_the_boundary_is_that_of_a_linear_svm() -> None:
    """Of points with a wide gap its normal is the shortest way between the sets, here between two of the points."""
    rows = np.array([[-1, -0.5], [-4, 1], [1, 0.5], [4, -1]], np.float32) + np.float32(3)
    unit = normal(rows, np.array([-1, -1, 1, 1], np.float32))
    np.testing.assert_allclose(unit, np.array([2, 1]) / np.sqrt(5), atol=1e-3)


def test_states_are_moved_to_the_distance_that_is_wanted() -> None:
    unit = np.array([0.6, 0.8, 0, 0], np.float32)
    side, states = Boundary(unit, -1.0, 3.0, 1.0), np.random.default_rng(0).standard_normal((3, 1, 2, 2), np.float32)
    moved = states + side.move(states, 1.5)
    np.testing.assert_allclose(moved.reshape(3, 4) @ unit, 5.0, atol=1e-5)
    across = np.array([0, 0, 1, 0], np.float32)
    lengths = [np.linalg.norm(side.move(states, 1.5, each).reshape(3, 4), axis=1) for each in (None, across)]
    np.testing.assert_allclose(lengths[0], lengths[1], rtol=1e-5)
