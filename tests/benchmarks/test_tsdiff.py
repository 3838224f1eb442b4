"""benchmarks/steering/tsdiff.py: the score of forecasts, and the exact one."""

import numpy as np
import pytest

from benchmarks.steering.series import CONTEXT
from benchmarks.steering.tsdiff import Problem


def test_the_exact_forecast_has_the_better_score() -> None:
    problem = Problem(count=40, samples=24, seed=5)
    naive, exact = problem.naive(), problem.exact()
    truth = problem.series[:, CONTEXT:]
    point = np.abs(naive.reshape(40, 24, -1)[:, 0, CONTEXT:] - truth).mean(1) / np.abs(truth).mean()
    assert problem.crps(naive) == pytest.approx(point, rel=1e-6)  # of samples that are alike it is the absolute error
    np.testing.assert_array_equal(exact[:, :, :CONTEXT], problem.observed[:, :, :CONTEXT])
    assert problem.crps(exact).mean() < 0.7 * problem.crps(naive).mean()
