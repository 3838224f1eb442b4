"""States of a teacher between its own steps are those of the exact trajectory."""

import numpy as np
import pytest

from fewstep.fitting.published.teacher_states import states_at
from fewstep.plans.compile import compile_plan
from fewstep.plans.errors import UserError
from fewstep.plans.schedule import NoiseSchedule
from fewstep.plans.spec import DenoiserFacts, ScheduleSpec
from tests.fitting.analytic import Analytic, blocks, facts, gaussian, mixture

FAMILIES = [("cosine", "v"), ("flow", "flow"), ("edm", "edm")]


def exact(x, first, step, mean=0.4, std=0.25):
    """Where the probability-flow ODE of a Gaussian leads from one noise level to another."""
    spread = np.sqrt((step.alpha**2 * std**2 + step.sigma**2) / (first.alpha**2 * std**2 + first.sigma**2))
    return step.alpha * mean + spread * (x - first.alpha * mean)


@pytest.mark.parametrize(("kind", "prediction"), FAMILIES)
def test_on_gaussian_data_they_are_the_closed_form(kind, prediction):
    sampler = Analytic(facts(kind, prediction), gaussian())
    (block,) = blocks(range(8))
    teacher = compile_plan("dpmpp_2m:80@arctan", sampler.facts)
    steps = compile_plan("ddim:5@arctan", sampler.facts).steps[1:]
    first = NoiseSchedule(sampler.facts.schedule).noisiest
    for step, found in zip(steps, states_at(sampler, teacher, block, steps), strict=True):
        wanted = exact(first.sigma * block.draws(0), first, step).reshape(8, -1)
        np.testing.assert_allclose(found, wanted, atol=0.01 * np.sqrt(np.square(wanted).mean()))


def test_a_state_with_more_than_signal_and_noise_is_refused():
    sampler = Analytic(DenoiserFacts(ScheduleSpec("ou"), "score", towards="y"), mixture)
    plan = compile_plan("dpmpp_2m:4", sampler.facts)
    with pytest.raises(UserError, match="have other parts than x0 and noise"):
        states_at(sampler, plan, blocks(range(8))[0], plan.steps)
