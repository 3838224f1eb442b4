"""The oracle itself, on samplers whose tables are known."""

import numpy as np
import pytest

from fewstep.plans import solvers
from fewstep.plans.compile import trace_plan
from fewstep.plans.spec import DenoiserFacts, ScheduleSpec
from tests.plans.parity.extract import (
    ROW_TOLERANCE,
    assert_same_rows,
    assert_same_trajectory,
    extract,
    times_of,
    unroll,
)

diffusers = pytest.importorskip("diffusers")
LINEAR = DenoiserFacts(ScheduleSpec("linear"), "epsilon")


def test_ddim_in_one_step_is_its_formula():
    scheduler = diffusers.DDIMScheduler(clip_sample=False, timestep_spacing="trailing")
    rows = extract(scheduler, 1)
    bar = float(scheduler.alphas_cumprod[999])
    assert rows.times == [999]
    assert rows.inputs == pytest.approx(np.array([[1.0, 0.0]]))
    assert rows.sample == pytest.approx(np.array([1, -np.sqrt(1 - bar)]) / np.sqrt(bar), rel=1e-6)


def test_only_draws_that_are_used_have_a_column():
    scheduler = diffusers.DDIMScheduler(clip_sample=False, timestep_spacing="trailing")
    assert extract(scheduler, 3).sample.shape == (1 + 3,)
    assert extract(scheduler, 3, eta=1.0).sample.shape == (1 + 3 + 2,)


@pytest.mark.parametrize(
    ("scheduler", "solver"),
    [
        (diffusers.DPMSolverMultistepScheduler(), "dpmpp_2m"),
        (diffusers.DPMSolverMultistepScheduler(algorithm_type="sde-dpmsolver++"), "dpmpp_2m_sde"),
        (diffusers.EulerDiscreteScheduler(), "ddim"),
        (diffusers.UniPCMultistepScheduler(), "unipc_2"),
    ],
    ids=lambda value: type(value).__name__ if hasattr(value, "config") else value,
)
def test_known_solvers_are_recognised(scheduler, solver):
    plan = trace_plan("test", getattr(solvers, solver), times_of(scheduler, 7), LINEAR)
    # their start has deviation 1 where ours has the schedule's sigma
    assert_same_rows(unroll(plan).from_first_input(), extract(scheduler, 7).from_first_input())


def test_a_wrong_solver_is_found_out():
    scheduler = diffusers.DPMSolverMultistepScheduler(timestep_spacing="trailing")
    plan = trace_plan("test", solvers.dpmpp_3m, times_of(scheduler, 7), LINEAR)
    with pytest.raises(AssertionError, match="row"):
        assert_same_rows(unroll(plan), extract(scheduler, 7), ROW_TOLERANCE)
    with pytest.raises(AssertionError):
        assert_same_trajectory(plan, scheduler, 7)
