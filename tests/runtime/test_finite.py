"""A number that is not finite is found where the denoiser makes it, also in an output that its step leaves unread."""

import numpy as np
import pytest

from fewstep.plans.compile import compile_plan
from fewstep.plans.errors import UserError
from fewstep.plans.guidance import CfgPlusPlus
from fewstep.plans.spec import DenoiserFacts, ScheduleSpec
from fewstep.runtime.execute import execute
from fewstep.runtime.finite import finite_states

GUIDED = DenoiserFacts(ScheduleSpec("cosine"), "epsilon", guided=True)
X = np.ones((1, 1, 2, 2), np.float32)


@pytest.mark.parametrize("bad", range(9))
@pytest.mark.parametrize("branch", [0, 1])
def test_every_output_is_looked_at(bad: int, branch: int) -> None:
    """rk4 with CFG++ does not read the conditional branch of some inner evaluations."""
    plan = compile_plan("rk4:3", GUIDED, CfgPlusPlus(0.5))

    def network(index, step, u):
        outputs = [np.tanh(u), np.tanh(u) / 2][: len(step.branches)]
        outputs[branch] = outputs[branch] * np.float32(np.nan if index == bad else 1)
        return outputs

    assert all(len(step.branches) == 2 for step in plan.steps) and len(plan.steps) == 9
    with pytest.raises(UserError, match=f"the denoiser's output is not finite at step {bad + 1} of 9"):
        list(finite_states(execute(plan, network, lambda draw: X, np.float32), plan))
