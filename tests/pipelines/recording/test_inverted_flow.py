"""A pipeline whose scheduler has times that grow from noise to data, as those of Mochi: recorded as a flow."""

import pytest
import torch

pytest.importorskip("diffusers")
from diffusers import FlowMatchEulerDiscreteScheduler

from fewstep.pipelines.recording.call_record import CallRecord, SchedulerStep
from fewstep.pipelines.recording.inverted_flow import turn_around
from fewstep.pipelines.source import load_pipeline
from fewstep.plans.configs.diffusers import plan_from_scheduler_config
from tests.own_pipeline import OwnNetwork, OwnPipeline


def test_samples_are_those_of_the_pipeline_without_stored_steps(caplog: pytest.LogCaptureFixture) -> None:
    torch.manual_seed(0)
    source = load_pipeline(
        OwnPipeline(OwnNetwork(), FlowMatchEulerDiscreteScheduler(invert_sigmas=True)), "it", "0", {}
    )
    assert "it: samples of OwnPipeline agree within" in caplog.text
    assert "stores the steps" not in caplog.text
    assert (source.spec.prediction, source.spec.schedule.kind) == ("flow", "flow")
    assert source.scheduler is not None
    plan = plan_from_scheduler_config(source.scheduler, steps=4)
    assert [step.time for step in plan.steps] == pytest.approx([1000, 667, 334, 1], abs=0.5)


def test_time_and_output_of_a_step_are_those_of_the_flow() -> None:
    x0, noise, time = torch.tensor([0.75]), torch.tensor([-0.25]), 400.0
    step = SchedulerStep((), x0 - noise, time, 0.4 * x0 + 0.6 * noise, x0)
    (found,) = turn_around(CallRecord((step,)), 1000).steps
    sigma = found.time / 1000
    assert sigma == pytest.approx(0.6)
    assert float(found.sample - sigma * found.model_output) == pytest.approx(0.75, abs=1e-6)
