"""Fields of a recorded pipeline that fewstep did not write are refused by name."""

from pathlib import Path
from typing import Any

import msgspec
import pytest

import fewstep.runtime
from fewstep.plans.configs.diffusers import plan_from_scheduler_config
from fewstep.plans.configs.pipelines import RECORDED
from fewstep.plans.configs.recorded_steps import read_steps
from fewstep.plans.errors import UserError
from tests.bundles import change_bundle

FLOW = {"_class_name": "FlowMatchEulerDiscreteScheduler"}
WRONG = [
    ([], r"_recorded \[\] is not an object"),
    ({"mu": 1}, r"_recorded.mu 1 is not two numbers"),
    ({"mu": [1]}, r"_recorded.mu \[1\] is not two numbers"),
    ({"mu": ["a", None]}, r"_recorded.mu \['a', None\] is not two numbers"),
    ({"eta": "much"}, "_recorded.eta 'much' is not a number"),
    ({"even": "yes"}, "_recorded.even 'yes' is not true or false"),
    ({"sigmas": 3}, "_recorded.sigmas 3 is not a list of sigmas"),
    ({"sigmas": []}, r"_recorded.sigmas \[\] is not a list of sigmas"),
    ({"sigmas": [[1.0], 2]}, "_recorded.sigmas .* is not a list of sigmas"),
    ({"sigmas": [[1.0], [1.0, "x"]]}, "_recorded.sigmas .* is not a list of sigmas"),
    ({"sigmas": [[1.0], [1.0]]}, "_recorded.sigmas .* is not a list of sigmas"),
    ({"sigmas": [[1.0], [1.0, -0.5]]}, "_recorded.sigmas .* is not a list of sigmas"),
    ({"eta": 10**400}, "_recorded.eta 1000.* is not a number"),
    ({"mu": [0.5, 10**400]}, r"_recorded.mu \[0.5, 1000.* is not two numbers"),
    ("steps", "_recorded 'steps' is not an object"),
]


@pytest.mark.parametrize(("recorded", "said"), WRONG, ids=str)
def test_a_malformed_field_is_named(recorded: Any, said: str) -> None:
    with pytest.raises(UserError, match=f"scheduler config: {said}"):
        plan_from_scheduler_config({**FLOW, RECORDED: recorded}, steps=2)
    with pytest.raises(UserError, match=f"scheduler config: {said}"):
        read_steps({**FLOW, RECORDED: recorded})


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (msgspec.json.encode({**FLOW, RECORDED: {"mu": 1}}), "_recorded.mu 1 is not two numbers"),
        (msgspec.json.encode({**FLOW, "_pipeline": []}), r"_pipeline \[\] is not a name"),
        (msgspec.json.encode({**FLOW, "_unheld_start": 1}), "_unheld_start 1 is not true or false"),
        (b"[]", "Expected `object`, got `array`"),
    ],
)
def test_a_file_of_a_bundle_is_named_with_its_field(tiny_bundle: Path, content: bytes, said: str) -> None:
    change_bundle(tiny_bundle, {"scheduler.json": content}, scheduler="scheduler.json")
    with (
        fewstep.runtime.load(tiny_bundle) as sampler,
        pytest.raises(UserError, match=rf"{tiny_bundle / 'scheduler.json'}.*: {said}"),
    ):
        sampler.compile("scheduler:2")
