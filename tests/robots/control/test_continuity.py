"""What holds and warm starts do to a sequence, on flows whose denoiser is exact.

Sequences are Gaussian, with neighbours that resemble each other; or they take one of two routes. The former sequence is
one of the data too, and its first actions are decided.
"""

import numpy as np
import pytest

from fewstep.plans.compile import compile_plan
from fewstep.plans.spec import DenoiserFacts, ScheduleSpec
from fewstep.runtime.execute import Hold
from tests.plans.execution import sample

FLOW = DenoiserFacts(ScheduleSpec("flow", timesteps=1), "flow")
HORIZON, DECIDED, FREE, COUNT = 16, 3, 10, 800
PLACES = np.arange(HORIZON)
CORRELATION = 0.97 ** np.abs(PLACES[:, None] - PLACES)
ROUTE = 1.5 * np.clip(PLACES / 8, 0, 1)  # away from the middle, at one side or the other
MIDDLE = np.zeros((1, HORIZON))
SPREAD = 0.04  # variance about a route


def draw(number: int) -> np.ndarray:
    return np.random.default_rng(number).standard_normal((COUNT, HORIZON))


def data(generator: np.random.Generator, covariance: np.ndarray) -> np.ndarray:
    return generator.standard_normal((COUNT, HORIZON)) @ np.linalg.cholesky(covariance).T


def exact_x0(x: np.ndarray, t: float, covariance: np.ndarray, means: np.ndarray) -> np.ndarray:
    """E[x0 | x] of a mixture of Gaussians with one covariance, at time t of the flow."""
    alpha = 1 - t
    total = alpha**2 * covariance + t**2 * np.eye(HORIZON)
    inverse = np.linalg.inv(total)
    away = x[None] - alpha * means[:, None]
    logits = -0.5 * np.einsum("mbi,ij,mbj->mb", away, inverse, away)
    likely = np.exp(logits - logits.max(axis=0))
    likely /= likely.sum(axis=0)
    x0 = means[:, None] + alpha * away @ inverse @ covariance
    return np.einsum("mb,mbi->bi", likely, x0)


def run(
    steps: int,
    former: np.ndarray,
    mask: np.ndarray | None,
    covariance: np.ndarray = CORRELATION,
    means: np.ndarray = MIDDLE,
    strength: float | None = None,
) -> np.ndarray:
    """New sequences of so many evaluations."""
    grid = steps if strength is None else round(steps / strength)
    plan = compile_plan(f"ddim:{grid}", FLOW, strength=strength)
    assert len(plan.steps) == steps

    def network(index: int, step: object, u: np.ndarray) -> list[np.ndarray]:
        t = plan.steps[index].time
        return [(u - exact_x0(u, t, covariance, means)) / t]

    if mask is None:
        return sample(plan, network, draw, np.float64, {"image": former})
    made = sample(plan, network, draw, np.float64, {"image": former}, Hold(former, mask[None]))
    return np.where(mask, former, made)


def seam(sequences: np.ndarray, former: np.ndarray) -> float:
    """The step from the decided actions to the new ones, over the data's own."""
    return float(np.sqrt(np.square(sequences[:, DECIDED] - former[:, DECIDED - 1]).mean() / (2 * (1 - 0.97))))


HELD = (PLACES < DECIDED).astype(np.float32)


@pytest.mark.parametrize("steps", [2, 4, 20])
def test_a_hold_leaves_a_smaller_seam_than_none(steps: int) -> None:
    former = data(np.random.default_rng(7), CORRELATION)
    assert seam(former, former) == pytest.approx(1.0, abs=0.05)
    held = run(steps, former, HELD)
    assert 2.6 < seam(held, former) < 3.3 and seam(run(steps, former, None), former) > 4
    np.testing.assert_allclose(held[:, :DECIDED], former[:, :DECIDED], atol=1e-12)


def test_a_warm_start_keeps_the_route_and_a_cold_start_draws_it_anew() -> None:
    generator, means = np.random.default_rng(7), np.stack([ROUTE, -ROUTE])
    side = np.sign(generator.standard_normal(COUNT))
    former = side[:, None] * ROUTE + data(generator, SPREAD * CORRELATION)

    def switched_and_between(strength: float | None) -> tuple[float, float]:
        made = run(2, former, HELD, SPREAD * CORRELATION, means, strength)
        end = side * made[:, FREE:].mean(axis=1)
        return float((end < -0.5).mean()), float((np.abs(end) <= 0.5).mean())

    switched, between = switched_and_between(None)
    assert switched > 0.29 and between > 0.05
    switched, between = switched_and_between(0.5)
    assert switched <= 0.01 and between <= 0.01
