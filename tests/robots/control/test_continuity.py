"""The seam of a held sequence, on a flow whose denoiser is exact.

Sequences are Gaussian, with correlated neighbours. The former sequence is also a sample of the data, and its first
actions are decided.
"""

import numpy as np
import pytest

from fewstep.plans.compile import compile_plan
from fewstep.plans.spec import DenoiserFacts, ScheduleSpec
from fewstep.runtime.sampling.execute import Hold
from tests.plans.execute_plan import sample

FLOW = DenoiserFacts(ScheduleSpec("flow", timesteps=1), "flow")
HORIZON, DECIDED, COUNT = 16, 3, 800
PLACES = np.arange(HORIZON)
CORRELATION = 0.97 ** np.abs(PLACES[:, None] - PLACES)


def draw(number: int) -> np.ndarray:
    return np.random.default_rng(number).standard_normal((COUNT, HORIZON))


def exact_x0(x: np.ndarray, t: float) -> np.ndarray:
    """E[x0 | x] at time t of the flow."""
    total = (1 - t) ** 2 * CORRELATION + t**2 * np.eye(HORIZON)
    made: np.ndarray = (1 - t) * x @ np.linalg.inv(total) @ CORRELATION
    return made


def run(steps: int, former: np.ndarray, mask: np.ndarray | None) -> np.ndarray:
    """Return new sequences of a number of evaluations."""
    plan = compile_plan(f"ddim:{steps}", FLOW)

    def network(index: int, step: object, u: np.ndarray) -> list[np.ndarray]:
        t = plan.steps[index].time
        return [(u - exact_x0(u, t)) / t]

    made = sample(plan, network, draw, np.float64, {}, None if mask is None else Hold(former, mask[None]))
    return made if mask is None else np.where(mask, former, made)


def seam(sequences: np.ndarray, former: np.ndarray) -> float:
    """Return the step from the decided actions to the new ones, divided by the data's own."""
    return float(np.sqrt(np.square(sequences[:, DECIDED] - former[:, DECIDED - 1]).mean() / (2 * (1 - 0.97))))


HELD = (PLACES < DECIDED).astype(np.float32)


@pytest.mark.parametrize("steps", [2, 4, 20])
def test_a_hold_leaves_a_smaller_seam_than_none(steps: int) -> None:
    former = draw(7) @ np.linalg.cholesky(CORRELATION).T
    assert seam(former, former) == pytest.approx(1.0, abs=0.05)
    held = run(steps, former, HELD)
    assert 2.6 < seam(held, former) < 3.3 and seam(run(steps, former, None), former) > 4
    np.testing.assert_allclose(held[:, :DECIDED], former[:, :DECIDED], atol=1e-12)
