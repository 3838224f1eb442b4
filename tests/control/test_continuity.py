"""What holds and warm starts do to a sequence, on flows whose denoiser is exact.

Sequences are Gaussian, with neighbours that resemble each other; or they take one of two routes. The former sequence is
one of the data too, and its first actions are decided.
"""

import numpy as np
import pytest

from fewstep.control import soft_mask
from fewstep.control.actions import blended
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
    made = sample(plan, network, draw, np.float64, {"image": former}, Hold(former, np.floor(mask)[None]))
    return blended(made, former, mask[None])


def seam(sequences: np.ndarray, former: np.ndarray) -> float:
    """The step from the decided actions to the new ones, over the data's own."""
    return float(np.sqrt(np.square(sequences[:, DECIDED] - former[:, DECIDED - 1]).mean() / (2 * (1 - 0.97))))


HARD, SOFT = soft_mask(DECIDED, DECIDED, HORIZON), soft_mask(DECIDED, FREE, HORIZON)


@pytest.mark.parametrize("steps", [2, 4, 20])
def test_a_hard_hold_leaves_a_seam_and_a_soft_one_does_not(steps: int) -> None:
    former = data(np.random.default_rng(7), CORRELATION)
    assert seam(former, former) == pytest.approx(1.0, abs=0.05)
    hard, soft = run(steps, former, HARD), run(steps, former, SOFT)
    assert 2.6 < seam(hard, former) < 3.3 and seam(soft, former) == pytest.approx(1.2, abs=0.05)
    for made in (hard, soft):
        np.testing.assert_allclose(made[:, :DECIDED], former[:, :DECIDED], atol=1e-12)
    assert seam(run(steps, former, None), former) > 4


@pytest.mark.parametrize("steps", [1, 2, 10, 100])
def test_a_soft_hold_is_felt_the_same_in_any_number_of_steps(steps: int) -> None:
    """How a new sequence changes with the former one is the mask, however the denoiser answers. A state that is held
    in part before each step would be held wholly by a hundred."""
    former = data(np.random.default_rng(7), CORRELATION)
    mask = soft_mask(0, FREE, HORIZON)
    moved = run(steps, former + 1, mask) - run(steps, former, mask)
    np.testing.assert_allclose(moved, np.broadcast_to(mask, moved.shape), atol=1e-6)


def test_a_state_that_is_held_in_part_is_held_wholly_by_a_hundred_steps() -> None:
    former, mask = data(np.random.default_rng(7), CORRELATION), soft_mask(DECIDED, FREE, HORIZON)

    def felt(steps: int) -> float:
        plan = compile_plan(f"ddim:{steps}", FLOW)

        def network(index: int, step: object, u: np.ndarray) -> list[np.ndarray]:
            t = plan.steps[index].time
            return [(u - exact_x0(u, t, CORRELATION, MIDDLE)) / t]

        low, high = (sample(plan, network, draw, np.float64, {}, Hold(value, mask)) for value in (former, former + 1))
        return float((high - low)[:, DECIDED].mean())

    assert mask[DECIDED] == pytest.approx(0.71, abs=0.01)
    assert felt(1) == pytest.approx(0.0, abs=1e-6) and felt(100) > 0.99


def test_a_warm_start_with_a_soft_hold_keeps_the_route_and_a_cold_start_draws_it_anew() -> None:
    generator, means = np.random.default_rng(7), np.stack([ROUTE, -ROUTE])
    side = np.sign(generator.standard_normal(COUNT))
    former = side[:, None] * ROUTE + data(generator, SPREAD * CORRELATION)

    def switched_and_between(mask: np.ndarray, strength: float | None) -> tuple[float, float]:
        made = run(2, former, mask, SPREAD * CORRELATION, means, strength)
        end = side * made[:, FREE:].mean(axis=1)
        return float((end < -0.5).mean()), float((np.abs(end) <= 0.5).mean())

    switched, between = switched_and_between(HARD, None)
    assert switched > 0.29 and between > 0.05
    switched, between = switched_and_between(SOFT, 0.5)
    assert switched <= 0.01 and between <= 0.01


def test_the_soft_mask_is_the_one_of_real_time_chunking() -> None:
    mask = soft_mask(2, 6, 8)
    line = np.array([4, 3, 2, 1]) / 5  # equation 5: (free - place) / (free - decided + 1)
    np.testing.assert_allclose(mask[2:6], line * np.expm1(line) / np.expm1(1), rtol=1e-6)
    assert mask[:2].tolist() == [1, 1] and mask[6:].tolist() == [0, 0]
    np.testing.assert_allclose(soft_mask(2, 6, 8, "linear")[2:6], line, rtol=1e-6)
    assert soft_mask(3, 3, 5).tolist() == [1, 1, 1, 0, 0] and soft_mask(0, 0, 3).tolist() == [0, 0, 0]
    assert soft_mask(5, 2, 5).tolist() == [1] * 5
