"""Differences of two outputs whose gain and noise are known."""

import numpy as np
import pytest

from fewstep.measure.rollouts.metrics import CEILING
from fewstep.measure.rollouts.output_differences import (
    difference_sums,
    is_lost,
    output_differences,
    roll_batch,
    summarize_differences,
    worst_difference,
)
from fewstep.plans.compile import compile_plan
from fewstep.plans.plan import Step
from fewstep.plans.shaping import Rescale, Shaping
from fewstep.plans.spec import DenoiserFacts, Prediction, ScheduleSpec
from fewstep.runtime.bundle.manifest import Difference

FACTS = DenoiserFacts(ScheduleSpec("cosine", timesteps=100), "epsilon")
RNG = np.random.default_rng(0)
X, CONDITIONS = RNG.normal(size=(4, 1, 8, 8)), RNG.normal(size=(4, 1, 8, 8))  # what each sample's condition adds


def step(guidance: float | None = 2.0) -> Step:
    return compile_plan("ddim:2", FACTS, guidance).steps[0]


def rho(step: Step) -> float:
    assert step.sigma and step.alpha
    return step.sigma / step.alpha


def seen(step: Step, pull: float = 1.0, noise: float = 0.0) -> np.ndarray:
    """Return the differences of a network that adds `pull` times its condition to x."""

    def network(u: np.ndarray) -> list[np.ndarray]:
        parts = {"cond": pull * CONDITIONS, "uncond": np.zeros_like(u)}
        error = noise * np.random.default_rng(1).normal(size=(2, *u.shape))
        return [u + parts[branch] + each for branch, each in zip(step.branches, error, strict=False)]

    return output_differences(step, network(X), network(roll_batch(X)))


def test_the_differences_are_of_conditions_alone() -> None:
    part, guidance, condition = seen(step())
    effect = -rho(step())  # epsilon: x0 = (x - sigma epsilon) / alpha
    assert part == pytest.approx(effect * (X + CONDITIONS))
    assert guidance == pytest.approx(effect * CONDITIONS)
    assert condition == pytest.approx(effect * (CONDITIONS - np.roll(CONDITIONS, -1, axis=0)))


@pytest.mark.parametrize(("prediction", "shaping"), [("epsilon", None), ("sample", None), ("epsilon", Rescale(0.7))])
def test_the_share_is_of_the_predicted_sample(prediction: Prediction, shaping: Shaping | None) -> None:
    """One direction of x0 for networks with two predictions, and a plan that rescales the guided output."""
    last = compile_plan("ddim:8", DenoiserFacts(FACTS.schedule, prediction), 2.0, shaping=shaping).steps[-1]
    exact = seen(last, pull=-1 / rho(last) if prediction == "epsilon" else 1.0)
    guidance, _ = summarize_differences(0, difference_sums(exact, exact, 9 * X))
    assert guidance is not None
    assert guidance.share == pytest.approx(np.linalg.norm(CONDITIONS) / np.linalg.norm(9 * X))


def test_gain_and_ratio_are_what_was_planted() -> None:
    exact = seen(step())
    for difference in summarize_differences(0, difference_sums(seen(step(), pull=0.1), exact, X)):
        assert difference is not None and is_lost(difference)
        assert difference.gain == pytest.approx(0.1) and difference.ratio == pytest.approx(20 * np.log10(1 / 0.9))
    noisy = summarize_differences(0, difference_sums(seen(step(), noise=0.01), exact, X))
    for each, ratio in zip(noisy, (37, 40), strict=True):  # two conditions differ by more than one and none
        assert each is not None and not is_lost(each)
        assert each.gain == pytest.approx(1, abs=0.01) and each.ratio == pytest.approx(ratio, abs=1)
    same = summarize_differences(3, difference_sums(exact, exact, X))
    assert all(each is not None and (each.step, each.gain, each.ratio) == (3, 1.0, CEILING) for each in same)


def test_sums_of_batches_add_up() -> None:
    exact, int8 = seen(step()), seen(step(), pull=0.8, noise=0.1)
    halves = difference_sums(int8[:, :2], exact[:, :2], X[:2]) + difference_sums(int8[:, 2:], exact[:, 2:], X[2:])
    assert halves == pytest.approx(difference_sums(int8, exact, X))


def test_a_direction_without_guidance_and_a_condition_that_changes_nothing_are_not_judged() -> None:
    exact, small = seen(step(None)), seen(step(), pull=1e-6)
    guidance, condition = summarize_differences(0, difference_sums(exact, exact, X))
    assert guidance is None and condition is not None
    assert summarize_differences(0, difference_sums(seen(step(), pull=0.0), small, X)) == (None, None)


def test_the_worst_step_is_a_lost_one_and_noise_may_hide_a_small_difference() -> None:
    weak, lost = Difference(0, 1.0, 2.0, 0.3), Difference(1, 0.4, 4.4, 0.3)
    assert not is_lost(Difference(7, 0.99, -0.3, 0.07)) and is_lost(Difference(7, 0.99, -0.3, 0.1))
    assert (
        worst_difference([None, weak]) == weak
        and worst_difference([weak, lost]) == lost
        and worst_difference([None]) is None
    )
