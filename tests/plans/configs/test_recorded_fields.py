"""Fields of a recorded pipeline that fewstep did not write are refused by name."""

from pathlib import Path
from typing import Any

import msgspec
import pytest

import fewstep.runtime
from fewstep.plans.configs.diffusers import plan_from_scheduler_config
from fewstep.plans.configs.pipelines import RECORDED
from fewstep.plans.configs.recorded import (
    Recorded,
    RecordedStep,
    RecordedSteps,
    ShiftOfSize,
    read_recorded,
    read_steps,
)
from fewstep.plans.errors import UserError
from fewstep.plans.shaping import GuideChannels, GuidedShaping, GuideFrames, MatchNorm, Project
from tests.bundles import change_bundle

FLOW = {"_class_name": "FlowMatchEulerDiscreteScheduler"}
WRONG = [
    ([], "Expected `object`"),
    ("steps", "Expected `object`"),
    ({"mu": 1}, r"\$.mu"),
    ({"mu": [1]}, r"\$.mu"),
    ({"mu": ["a", None]}, r"\$.mu"),
    ({"eta": "much"}, r"\$.eta"),
    ({"even": "yes"}, r"\$.even"),
    ({"odd": True}, "unknown field `odd`"),
    ({"sigmas": 3}, r"\$.sigmas"),
    ({"sigmas": [[1.0], 2]}, r"\$.sigmas\[1\]"),
    ({"sigmas": [[1.0], [1.0, "x"]]}, r"\$.sigmas\[1\]\[1\]"),
    ({"sigmas": [[]]}, "sigmas are negative or missing"),
    ({"sigmas": [[1.0], [1.0]]}, "sigmas are not listed for 1 step, for 2 steps"),
    ({"sigmas": [[1.0], [1.0, -0.5]]}, "sigmas are negative"),
    ({"eta": float("inf")}, "not finite"),
    ({"eta": 10**400}, ""),
    ({"mu": [0.5, 10**400]}, ""),
    ({"mu_of_size": {"usual_count": 4, "a": float("inf"), "b": 0.0}}, "not finite"),
    ({"mu_of_size": 3}, r"\$.mu_of_size"),
    ({"shaping": {"type": "clip", "low": -1, "high": 1}}, r"\$.shaping"),
    ({"shaping": {"type": "match_norm", "axis": 1}}, "matches norms along axis 1"),
    ({"norm_axis": 1}, "matches norms along axis 1"),
    ({"steps": {"2": {"start": 1.0, "steps": []}}}, r"steps\[2\] has no steps"),
]
FORMER = [
    ({"norm_axis": -1}, MatchNorm(-1)),
    ({"guided_channels": 3}, GuideChannels(3)),
    ({"guided_frames": 0.5}, GuideFrames(0.5)),
    ({"projection": {"type": "project", "eta": 0.5}}, Project(0.5)),
]


@pytest.mark.parametrize(("fields", "shaping"), FORMER, ids=str)
def test_the_fields_of_former_bundles_are_shapings(fields: dict[str, Any], shaping: GuidedShaping) -> None:
    recorded = read_recorded({**FLOW, RECORDED: {"even": True, "mu": None, **fields}})
    assert recorded == Recorded(even=True, shaping=shaping)


def test_what_is_stored_is_read_again() -> None:
    steps = RecordedSteps(1.5, (RecordedStep(0.75, 0.5, (0.25,), ((2, 0.125),)),))
    stored = Recorded(False, (0.5, 0.25), 0.0, ((), (1.0, 0.5)), MatchNorm(-2), {1: steps})
    fields = msgspec.json.decode(msgspec.json.encode({RECORDED: stored.to_config()}))
    assert read_recorded(fields) == stored
    assert (stored.arguments(2), stored.sigmas_of(2)) == ({"mu": 1.0}, (1.0, 0.5))


def test_the_shift_follows_the_size_of_x() -> None:
    stored = Recorded(mu=(0.5, 0.25), mu_of_size=ShiftOfSize(16, 0.125, 0.5))
    assert stored.arguments(2) == stored.arguments(2, (3, 4, 4)) == {"mu": 1.0}
    assert stored.arguments(2, (3, 4, 6)) == {"mu": 1.0 + (0.125 + 2 * 0.5) * 8}


@pytest.mark.parametrize(("recorded", "said"), WRONG, ids=str)
def test_a_malformed_field_is_named(recorded: Any, said: str) -> None:
    with pytest.raises(UserError, match=f"scheduler config: .*{said}"):
        plan_from_scheduler_config({**FLOW, RECORDED: recorded}, steps=2)
    with pytest.raises(UserError, match=f"scheduler config: .*{said}"):
        read_steps({**FLOW, RECORDED: recorded})


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (msgspec.json.encode({**FLOW, RECORDED: {"mu": 1}}), r"_recorded: Expected .* at `\$.mu`"),
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
