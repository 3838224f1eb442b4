"""The plan that a fit begins as: the best whose samples are numbers."""

from dataclasses import dataclass, field

import numpy as np
import pytest
from msgspec.structs import replace

from fewstep.calibration.fitting.rollouts import Rollouts
from fewstep.calibration.fitting.start import best_on_path, best_start
from fewstep.plans.compile import compile_plan
from fewstep.plans.errors import UserError
from tests.calibration.fitting.analytic import Analytic, blocks, facts, mean_psnr, mixture, taught

NAMES = ("ddim:4", "dpmpp_2m:4", "dpmpp_2m:4@karras")


@dataclass
class Broken(Analytic):
    """A network without a finite answer along some plans."""

    of: set[str] = field(default_factory=set)

    def network(self, plan, samples, conditions):
        call = super().network(plan, samples, conditions)
        return (lambda *asked: [each * np.nan for each in call(*asked)]) if plan.name in self.of else call


def plans_and_blocks(sampler):
    teacher = compile_plan("dpmpp_2m:60@uniform_lambda", sampler.facts)
    return [compile_plan(name, sampler.facts) for name in NAMES], taught(sampler, teacher, blocks(range(16)))


def test_it_is_the_nearest_to_the_teacher_and_no_plan_without_a_finite_sample():
    sampler = Broken(facts("cosine", "v"), mixture)
    plans, parts = plans_and_blocks(sampler)
    best, second = sorted(plans, key=lambda plan: -mean_psnr(sampler, plan, parts))[:2]
    assert best_start(Rollouts(sampler, sampler), plans, parts) is best
    sampler.of = {best.name}
    assert best_start(Rollouts(sampler, sampler), plans, parts) is second


@pytest.mark.parametrize("count", [1, 3])
def test_without_a_finite_sample_the_plans_that_were_tried_are_named(count):
    sampler = Broken(facts("cosine", "v"), mixture)
    plans, parts = plans_and_blocks(sampler)
    sampler.of = {plan.name for plan in plans}
    with pytest.raises(UserError, match=f"no sample of {', '.join(NAMES[:count])} is finite; name another plan"):
        best_start(Rollouts(sampler, sampler), plans[:count], parts)


def test_a_solver_over_the_times_of_the_teachers_path_comes_nearer_to_it(caplog):
    sampler = Analytic(facts("cosine", "v"), mixture)
    nominal, teacher = (sampler.compile(name) for name in ("dpmpp_2m:4@karras", "dpmpp_2m:60@arctan"))
    fit, judges = (taught(sampler, teacher, blocks(seeds)) for seeds in (range(16), range(16, 32)))
    best = best_on_path(Rollouts(sampler, sampler), teacher, nominal, fit, fit)
    assert best.name.partition("@")[2].startswith("custom(times=[999") and len(best.steps) == 4
    assert mean_psnr(sampler, best, judges) > mean_psnr(sampler, nominal, judges) + 15
    with caplog.at_level("INFO", "fewstep"):
        assert best_on_path(Rollouts(sampler, sampler), replace(teacher, given=("y",)), nominal, fit, fit) is None
    assert "not begin on the teacher's path: the states of the teacher dpmpp_2m:60@arctan have other" in caplog.text
