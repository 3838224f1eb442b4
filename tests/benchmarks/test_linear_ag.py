"""benchmarks/steering/linear_ag.py: the rewritten plan against the formula on arrays."""

import numpy as np
import pytest

from benchmarks.steering.linear_ag import LinearRule, estimated, fitted
from fewstep.fitting.published.guidance import collect
from fewstep.plans.compile import compile_plan
from fewstep.plans.file import decode, encode
from fewstep.plans.spec import DenoiserFacts, ScheduleSpec
from fewstep.runtime.execute import execute
from tests.plans.execution import sample

PLAN = compile_plan("dpmpp_2m:6", DenoiserFacts(ScheduleSpec("cosine"), "v"), 3.0)
X = np.random.default_rng(0).standard_normal((2, 4, 16))
RULE = LinearRule(2, (0.6, -0.2), (0.5,))


def test_the_rule_of_outputs_is_fitted_and_replaces_the_branch() -> None:
    kept: dict[int, tuple[np.ndarray, np.ndarray]] = {}

    def network(index, step, u):
        cond, uncond = np.tanh(u) + step.time / 1000, np.cos(u)
        if index >= 2:
            uncond = 0.6 * cond - 0.2 * kept[index - 1][0] + 0.5 * kept[index - 1][1]
        kept[index] = cond, uncond
        return [cond, uncond][: len(step.branches)]

    rule = fitted(collect(PLAN, [execute(PLAN, network, lambda draw, x=x: x, np.float64) for x in X]), 2)
    assert (rule.after, *rule.cond, *rule.uncond) == pytest.approx((2, 0.6, -0.2, 0.5), abs=1e-9)
    plan = estimated(PLAN, RULE)
    assert sum(len(step.branches) for step in plan.steps) == 8
    assert decode(encode(plan)) == plan
    full = sample(PLAN, network, lambda draw: X[0], np.float64)
    assert sample(plan, network, lambda draw: X[0], np.float64) == pytest.approx(full, abs=1e-12)
