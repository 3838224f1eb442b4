"""Random plans survive JSON, and are resumed and regrouped with bitwise identical samples."""

from itertools import islice

import numpy as np
import pytest

from fewstep.plans.any_plan import regroup
from fewstep.plans.file import decode, encode
from fewstep.plans.noise import normal
from fewstep.plans.plan import Plan, Step
from fewstep.plans.spec import DenoiserFacts, Prediction, ScheduleSpec
from fewstep.plans.transforms import tail, tail_inputs
from fewstep.runtime.sampling.execute import Array, execute
from tests.plans.execute_plan import sample
from tests.plans.random_plans import random_plans

DENOISERS: list[tuple[str, Prediction]] = [("cosine", "v"), ("linear", "epsilon"), ("flow", "flow"), ("edm", "edm")]
PLANS = 25  # of each denoiser


def network(index: int, step: Step, u: Array) -> list[Array]:
    """A nonlinear network, with another function for each time and branch."""
    moved = [u + np.float32(branch / 3) for branch in range(len(step.branches))]
    return [each / (1 + np.abs(each)) + np.float32(step.time % 7) / 10 for each in moved]


def draws(number: int) -> Array:
    return normal(7, number, (2, 3))


def drawn(kind: str, predicts: Prediction) -> list[Plan]:
    facts = DenoiserFacts(ScheduleSpec(kind), predicts, guided=True)  # type: ignore[arg-type]
    plans = list(islice(random_plans(facts, seed=0), PLANS))
    assert len({plan.name for plan in plans}) > PLANS / 2
    return plans


@pytest.mark.parametrize(("kind", "predicts"), DENOISERS)
def test_a_plan_is_what_its_file_says(kind: str, predicts: Prediction) -> None:
    for plan in drawn(kind, predicts):
        assert decode(encode(plan)) == plan, plan.name


@pytest.mark.parametrize(("kind", "predicts"), DENOISERS)
def test_a_tail_from_any_step_ends_in_the_same_bits(kind: str, predicts: Prediction) -> None:
    rng = np.random.default_rng(1)
    for plan in drawn(kind, predicts):
        k = int(rng.integers(len(plan.steps)))
        states = list(execute(plan, network, draws, np.float32))
        rest = decode(encode(tail(plan, k)))
        assert isinstance(rest, Plan)
        expected = sample(plan, network, draws)
        resumed = sample(rest, network, draws, np.float32, tail_inputs(states[k].before))
        np.testing.assert_array_equal(resumed, expected, err_msg=f"{plan.name} from step {k}")
        assert np.isfinite(expected).all()


@pytest.mark.parametrize(("kind", "predicts"), DENOISERS)
def test_range_groups_change_no_number_of_a_plan(kind: str, predicts: Prediction) -> None:
    for plan in drawn(kind, predicts):
        edges = (-0.5, 1.0)
        grouped = regroup(plan, edges)
        lambdas = [-np.inf if step.lam is None else step.lam for step in plan.steps]
        assert [step.group for step in grouped.steps] == [sum(lam >= edge for edge in edges) for lam in lambdas]
        np.testing.assert_array_equal(sample(grouped, network, draws), sample(plan, network, draws))
        assert regroup(grouped, ()) == plan
