"""What a plan's name says about the scheduler that came with the bundle."""

import json
import logging
from pathlib import Path
from typing import Any

import pytest

from fewstep.plans import warnings
from fewstep.plans.spec import ScheduleSpec
from fewstep.runtime.sampling.loading import load
from fewstep.runtime.sampling.sampler import Sampler
from tests.bundles import change_bundle


def flow_bundle(bundle: Path, **fields: Any) -> Sampler:
    """Return the sampler of a flow whose bundle has Euler's scheduler of flows with these fields."""
    config = {"_class_name": "FlowMatchEulerDiscreteScheduler", "_pipeline": "FluxPipeline", **fields}
    content = {"scheduler.json": json.dumps(config).encode()}
    flow = {"schedule": ScheduleSpec("flow"), "prediction": "flow", "grid": "arctan"}
    change_bundle(bundle, content, scheduler="scheduler.json", **flow)
    return load(bundle)


@pytest.fixture
def logged(caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch) -> pytest.LogCaptureFixture:
    monkeypatch.setattr(warnings, "_LOGGED", set())
    caplog.set_level(logging.WARNING, "fewstep")
    return caplog


def test_euler_says_that_the_scheduler_has_other_times(tiny_bundle: Path, logged: pytest.LogCaptureFixture) -> None:
    sampler = flow_bundle(tiny_bundle, shift=3.0)
    for _ in range(2):
        assert [step.time for step in sampler.compile("euler:4").steps] == [1000, 750, 500, 250]
    assert logged.messages == [
        "plan 'euler:4' runs at the times 1000, 750, 500, 250, and the scheduler of this model at 1000, 900, 750, 500: "
        "scheduler:4 takes those"
    ]


def test_a_run_from_an_image_is_compared_with_the_last_times_of_the_scheduler(
    tiny_bundle: Path, logged: pytest.LogCaptureFixture
) -> None:
    sampler = flow_bundle(tiny_bundle, shift=3.0)
    assert [step.time for step in sampler.compile("euler:4", strength=0.5).steps] == [500, 250]
    (line,) = logged.messages
    assert line.endswith("the times 500, 250, and the scheduler of this model at 750, 500: scheduler:4 takes those")


@pytest.mark.parametrize(("plan", "strength"), [("euler:4", 0.5), ("flow_heun:4", None), ("flow_heun:4", 0.5)])
def test_nothing_is_said_of_equal_times_that_are_fewer_or_evaluated_twice(
    tiny_bundle: Path, logged: pytest.LogCaptureFixture, plan: str, strength: float | None
) -> None:
    flow_bundle(tiny_bundle, shift=1.0).compile(plan, strength=strength)
    assert logged.messages == []


def test_a_shift_that_nobody_knows_is_named(tiny_bundle: Path, logged: pytest.LogCaptureFixture) -> None:
    flow_bundle(tiny_bundle, use_dynamic_shifting=True, _pipeline="MyPipeline").compile("euler:4")
    (line,) = logged.messages
    assert "those of the model's scheduler are unknown" in line and "number of tokens" in line


@pytest.mark.parametrize("plan", ["euler:4", "euler:4@flow_shift(shift=3)", "ddim:4", "scheduler:4"])
def test_nothing_is_said_of_equal_times_or_of_a_grid_that_was_named(
    tiny_bundle: Path, logged: pytest.LogCaptureFixture, plan: str
) -> None:
    flow_bundle(tiny_bundle, shift=1.0 if plan == "euler:4" else 3.0).compile(plan)
    assert logged.messages == []
