"""Whether float32's samples can be a reference, on denoisers whose samples are known."""

from collections.abc import Callable, Mapping
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from fewstep.measure.rollouts.conditions_file import ConditionRecords
from fewstep.measure.rollouts.reference_check import (
    LEAST_EFFECT,
    MOST_BEYOND,
    check_reference,
    require_usable_reference,
)
from fewstep.measure.rollouts.reference_run import run_reference
from fewstep.measure.rollouts.seeds import BODY_SEEDS, SeedBatch
from fewstep.plans.compile import compile_plan
from fewstep.plans.plan import Plan, Step
from fewstep.plans.shaping import Clip
from fewstep.plans.spec import DenoiserFacts, Prediction, ScheduleSpec
from fewstep.runtime.bundle.figures import ReferenceCheck
from fewstep.runtime.bundle.manifest import Condition
from tests.bundles import manifest_of
from tests.refusals import refuses

SCHEDULE = ScheduleSpec("cosine", timesteps=1000)
STATE = Condition("state", "state", (), "float32", low=-1.0, high=1.0)
Network = Callable[[NDArray[Any], Step, Mapping[str, NDArray[Any]]], NDArray[Any]]  # of x, the step and conditions


class Denoiser:
    """A sampler whose network is a function."""

    def __init__(self, network: Network, prediction: Prediction = "sample", **fields: Any) -> None:
        self.manifest = manifest_of(
            {}, x_shape=(16, 2), prediction=prediction, schedule=SCHEDULE, conditions=(STATE,), **fields
        )
        self.network, self.facts = network, DenoiserFacts(SCHEDULE, prediction)
        self.bundle = SimpleNamespace(manifest=self.manifest, path="policy")
        self.plans = SimpleNamespace(compile=self.compile)

    def compile(self, reference: object, guidance: Any = None, settings: Mapping[str, Any] | None = None) -> Plan:
        return compile_plan(f"{reference}", self.facts, guidance, **(settings or {}))

    def step_call(self, plan: Plan, samples: int, conditions: Mapping[str, NDArray[Any]]) -> Any:
        return SimpleNamespace(step_network=lambda _, step, u: [self.network(u, step, conditions)])

    def check(
        self, plan: str, clip: float | None = None, seeds: int = 4, records: ConditionRecords | None = None
    ) -> ReferenceCheck:
        shaping = None if clip is None else Clip(-clip, clip)
        compiled = self.compile(plan, settings={"shaping": shaping})
        batch = SeedBatch.from_manifest(self.manifest, BODY_SEEDS[:seeds], records)
        network = self.step_call(compiled, seeds, batch.conditions).step_network
        return check_reference(self, run_reference(compiled, batch, network))  # type: ignore[arg-type]


def answer(conditions: Mapping[str, NDArray[Any]]) -> NDArray[Any]:
    """Return the one right answer [B, 16, 2] to the condition, a line between -0.8 and 0.8."""
    return (conditions["state"][:, None, None] * np.linspace(-0.8, 0.8, 32).reshape(16, 2)).astype(np.float32)


def one_answer(x: NDArray[Any], step: Step, conditions: Mapping[str, NDArray[Any]]) -> NDArray[Any]:
    """The answer, and a thousandth of the noise."""
    return answer(conditions) + np.float32(1e-3) * x


def noise_of_answer(x: NDArray[Any], step: Step, conditions: Mapping[str, NDArray[Any]]) -> NDArray[Any]:
    """Return the noise in x if the answer is clean, with an error of 2 %, as a trained network has."""
    assert step.alpha is not None and step.sigma is not None
    return ((x - step.alpha * answer(conditions)) / step.sigma * 0.98).astype(np.float32)


def values(check: ReferenceCheck) -> dict[str, float]:
    return {figure.name: figure.value for figure in check.figures}


def test_an_epsilon_denoiser_of_one_step_is_not_usable_but_one_of_more_steps_is() -> None:
    check = Denoiser(noise_of_answer, "epsilon").check("ddim:1", clip=1.0)
    assert values(check)["beyond the clip"] > 0.9 > MOST_BEYOND
    assert check.problem is not None and check.problem.startswith("float32 itself: ")
    assert "more than 5 % beyond the clip, which moves them to its limits; the samples of --plan" in check.problem
    assert check.instead == "ddim:2"
    again = Denoiser(noise_of_answer, "epsilon").check("ddim:2", clip=1.0)
    assert again.problem is None and again.instead is None


def test_samples_that_are_predicted_a_little_beyond_the_clip_are_not_usable() -> None:
    """By 20 %, as a policy with too few steps; by 2 % they are, as two values with the error of a network."""
    for overshoot, is_usable in ((1.02, True), (1.2, False)):
        check = Denoiser(lambda x, step, conditions, by=overshoot: by * np.sign(x + answer(conditions))).check(
            "ddim:1", clip=1.0
        )
        assert (check.problem is None) == is_usable and values(check)["beyond the clip"] == float(not is_usable)


@pytest.mark.parametrize("clip", [None, 1.0])
def test_a_policy_with_nearly_one_answer_is_usable(clip: float | None) -> None:
    """A thousandth of the noise reaches its samples, which are half as large as noise."""
    check = Denoiser(one_answer).check("ddim:1", clip)
    assert check.problem is None
    assert 1e-3 < values(check)["effect of seeds"] < 1e-2
    assert values(check)["effect of conditions"] > 0.1


def test_data_of_two_values_are_usable_although_all_samples_lie_at_the_clip() -> None:
    """The values are predicted at the limit, not beyond it."""
    check = Denoiser(lambda x, step, conditions: np.sign(x + answer(conditions))).check("ddim:1", clip=1.0)
    assert values(check)["beyond the clip"] == 0 and check.problem is None


def test_samples_that_do_not_depend_on_the_seed_are_not_usable() -> None:
    check = Denoiser(lambda x, step, conditions: answer(conditions)).check("ddim:4")
    assert values(check)["effect of seeds"] < LEAST_EFFECT
    assert (
        check.problem
        == "float32 itself: its samples do not depend on the seed; more steps, up to 32, are not usable either"
    )
    assert check.instead is None


def test_samples_that_ignore_the_condition_are_not_usable() -> None:
    check = Denoiser(lambda x, step, conditions: 0.5 * x).check("ddim:1")
    assert check.problem is not None and check.problem.startswith("float32 itself: its samples do not depend on state")


def test_samples_of_one_value_are_not_usable() -> None:
    check = Denoiser(lambda x, step, conditions: np.full_like(x, 0.25)).check("ddim:2")
    assert check.problem is not None and check.problem.startswith("float32 itself: all its values are equal")


def test_samples_are_far_from_data_if_their_mean_magnitude_exceeds_the_largest_in_the_data() -> None:
    """A few values beyond it are not enough: guided samples have them."""

    def ten(x: NDArray[Any], step: Step, conditions: Mapping[str, NDArray[Any]]) -> NDArray[Any]:
        return 10 * (answer(conditions) + x)

    problem = Denoiser(ten, data_limit=1.0).check("ddim:1").problem
    assert problem is not None and "and your data stay within 1; clip each clean prediction, with --clip 1" in problem
    assert Denoiser(ten, data_limit=20.0).check("ddim:1").problem is None
    assert Denoiser(ten).check("ddim:1").problem is None  # an unknown range


def test_data_of_two_values_are_as_large_as_their_limit() -> None:
    """Samples with an error of 2 % have a mean magnitude above it."""
    check = Denoiser(lambda x, step, conditions: 1.02 * np.sign(x + answer(conditions)), data_limit=1.0).check("ddim:2")
    assert values(check)["magnitude"] > 1.01 and check.problem is None


def far_answer(x: NDArray[Any], step: Step, conditions: Mapping[str, NDArray[Any]]) -> NDArray[Any]:
    """Close to zero with one step, as from pure noise; the answer with less noise."""
    share = 0.01 if step.sigma is not None and step.sigma > 0.99 else 1.0
    return np.float32(share) * one_answer(x, step, conditions)


def data_moments() -> tuple[float, float]:
    states = SeedBatch.from_manifest(Denoiser(one_answer).manifest, range(1000)).conditions
    values = answer(states)
    return float(values.mean()), float(values.std())


def test_samples_near_the_mean_of_the_data_are_not_usable_but_those_of_more_steps_are() -> None:
    check = Denoiser(far_answer, data_moments=data_moments()).check("ddim:1", seeds=8)
    assert 0.9 < values(check)["distance from the data"] < 1
    assert check.problem is not None and "are not better than the mean of the data" in check.problem
    assert check.instead == "ddim:2"
    again = Denoiser(far_answer, data_moments=data_moments()).check("ddim:2", seeds=8)
    assert values(again)["distance from the data"] < 0.2 and again.problem is None


def test_samples_farther_from_the_data_than_their_mean_are_not_usable() -> None:
    def loud(x: NDArray[Any], step: Step, conditions: Mapping[str, NDArray[Any]]) -> NDArray[Any]:
        return 3 * one_answer(x, step, conditions)

    problem = Denoiser(loud, data_moments=data_moments()).check("ddim:2", seeds=8).problem
    assert problem is not None and "not better than the mean of the data (" in problem
    assert Denoiser(loud).check("ddim:2", seeds=8).problem is None  # without statistics


def test_few_samples_and_those_of_given_conditions_are_not_compared_with_the_data() -> None:
    """One pose of an arm, or poses near each other, are a part of the data."""
    known = Denoiser(far_answer, data_moments=data_moments())
    assert "distance from the data" not in values(known.check("ddim:1"))
    for states in ([0.5], [0.5, 0.6]):
        records = {"state": np.array(states, np.float32)}
        assert "distance from the data" not in values(known.check("ddim:1", seeds=8, records=records))


def test_nothing_is_compared_with_samples_that_are_not_usable() -> None:
    denoiser: Any = Denoiser(lambda x, step, conditions: np.full_like(x, 0.25))
    batch = SeedBatch.from_manifest(denoiser.manifest, BODY_SEEDS[:2])
    with refuses(("nothing can be compared with the samples of ddim:2", "all its values are equal"), "--plan ddim:2"):
        require_usable_reference(denoiser, denoiser.compile("ddim:2@trailing"), batch)
