"""Plans of recorded steps compute the recurrence that was recorded, for any guidance and any scale of the input."""

import numpy as np
import pytest

from fewstep.plans.configs.recorded import RecordedStep, RecordedSteps
from fewstep.plans.configs.recorded_steps import compile_recorded_steps
from fewstep.plans.spec import DenoiserFacts, Prediction, ScheduleSpec
from tests.plans.execute_plan import sample

FLOW = ScheduleSpec("flow", timesteps=1)
EDM = ScheduleSpec("edm", sigma_min=0.002, sigma_max=80)
RECORDED = RecordedSteps(
    1.5,
    (
        RecordedStep(0.75, 0.5, (0.25,), ((2, 0.125),)),
        RecordedStep(0.5, 0.75, (-0.5, 0.25), first=-0.625),
        RecordedStep(0.25, 1.25, (0.5, 0.0, 0.75), ((5, 0.375),), 2.0),
    ),
)
DRAWS = np.random.default_rng(0).standard_normal((3, 2, 4))  # of the start, and 2 and 5 of the steps


def outputs(u: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """A network's conditional and unconditional outputs."""
    return np.tanh(u), np.cos(u)


@pytest.mark.parametrize("weight", [1.0, 3.0])
@pytest.mark.parametrize(("schedule", "prediction"), [(FLOW, "flow"), (EDM, "edm")])
def test_plan_computes_the_recorded_recurrence(schedule: ScheduleSpec, prediction: Prediction, weight: float) -> None:
    inputs, made = [1.5 * DRAWS[0]], []
    for step in RECORDED.steps:
        cond, uncond = outputs(inputs[-1])
        made.insert(0, uncond + weight * (cond - uncond))
        after = step.x * inputs[-1] + step.first * inputs[0]
        after = after + sum(factor * output for factor, output in zip(step.outputs, made, strict=False))
        inputs.append(after + sum(factor * DRAWS[{2: 1, 5: 2}[number]] for number, factor in step.noise))

    plan = compile_recorded_steps({3: RECORDED}, 3, DenoiserFacts(schedule, prediction, guided=True), {}, weight)

    def network(index, step, u):
        np.testing.assert_allclose(u, inputs[index], rtol=1e-12)
        return outputs(u)[: len(step.branches)]

    found = sample(plan, network, lambda number: DRAWS[number], np.float64)
    np.testing.assert_allclose(found, inputs[-1], rtol=1e-12)


def test_the_network_receives_the_recorded_time_at_which_a_step_ends() -> None:
    steps = (RecordedStep(0.75, 0.5, (0.25,), to=0.5), RecordedStep(0.5, 0.75, (-0.5,), to=0.0))
    plan = compile_recorded_steps({2: RecordedSteps(1.0, steps)}, 2, DenoiserFacts(FLOW, "flow"), {}, None)
    assert [(step.time, step.to) for step in plan.steps] == [(0.75, 0.5), (0.5, 0.0)]
