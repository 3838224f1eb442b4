"""The variance of a trajectory finds samples between the modes of the data."""

from types import SimpleNamespace

import numpy as np
import pytest

from fewstep.literature.populations import trajectory_variance
from fewstep.plans.compile import compile_plan
from fewstep.plans.noise import normal
from fewstep.runtime.sampling.execute import execute, finish
from tests.literature.populations.test_population import FACTS, SCHEDULE
from tests.plans.mixture import Mixture
from tests.refusals import refuses

MODES = Mixture((0.5, 0.5), (-1.0, 1.0), (0.05, 0.05))


def smooth(index, step, u):
    """A smooth denoiser, as networks learn it, without the steep place between the modes."""
    time = SCHEDULE.time(step.time)
    return [np.mean([MODES.exact_x0(u + shift, time) for shift in np.linspace(-0.25, 0.25, 11)], axis=0)]


def test_samples_between_the_modes_vary_most() -> None:
    """With 96 % of the samples kept, nine of ten between the modes are gone."""
    plan = compile_plan("ddim:40", FACTS)
    states = list(execute(plan, smooth, lambda draw: normal(5, draw, (2000, 1)), np.float32))
    x, variance = finish(plan, states)[:, 0], trajectory_variance(states, last=5)
    between = np.abs(np.abs(x) - 1) > 0.2  # four deviations
    assert 10 <= between.sum() <= 40
    kept = variance <= np.quantile(variance, 0.96)
    assert between[kept].sum() <= 0.1 * between.sum()
    assert np.median(variance[between]) > 100 * np.median(variance[~between])


def test_a_variance_is_over_steps_and_its_mean_over_elements() -> None:
    states = [SimpleNamespace(x0=np.array([pair])) for pair in ((9.0, 9.0), (1.0, 1.0), (2.0, 1.0), (3.0, 3.0))]
    assert trajectory_variance(states, last=3) == pytest.approx([(2 / 3 + 8 / 9) / 2])


@pytest.mark.parametrize("last", [1, 0, -1, 2.0])
def test_a_variance_takes_two_steps_or_more(last) -> None:
    with refuses(f"last {last}", "from 2 up"):
        trajectory_variance([], last)
