"""Mistakes of a runner's caller: each is one line that names the thing and the fix."""

from pathlib import Path

import numpy as np
import pytest

from fewstep.runtime import UserError
from tests.control.looping import act, looping
from tests.control.tiny_policy import SEEN


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"plans": ()}, "no plans"),
        ({"execute": 17}, "execute 17; give a whole number from 1 to 16"),
        ({"fade": 1.5}, "fade 1.5; give a whole number from 0 up"),
        ({"deadline": 0.0}, "deadline 0.0"),
        ({"refresh": 0}, "refresh 0; give a whole number from 1 up"),
        ({"expected": float("nan")}, "expected nan; give seconds"),
        ({"expected": -0.1}, "expected -0.1; give seconds"),
        ({"expected": float("inf")}, "expected inf; give seconds"),
        ({"continuity": "sotf"}, "continuity 'sotf' is none"),
        ({"continuity": "trained"}, "takes no decided actions"),
        ({"idle": [0.0]}, r"idle \[0.0\]; give one action \[2\]"),
        ({"idle": [0.0, float("nan")]}, "of finite numbers"),
        ({"idle": [0.0, [1.0]]}, "idle is no array of numbers"),
        ({"warm": 1.5}, "warm 1.5 is not in"),
        ({"plans": ("scheduler:4",), "warm": 0.5}, "starts? from the former sequence|no scheduler of its own"),
    ],
)
def test_what_a_runner_cannot_do_is_one_line(tiny_bundle: Path, options: dict[str, object], said: str) -> None:
    with pytest.raises(UserError, match=said):
        looping(tiny_bundle, **options)


@pytest.mark.parametrize(
    ("observation", "said"),
    [
        ({"state": [0.0, [1.0]]}, "observation 'state' is no array"),
        ({"state": [np.nan]}, r"observation 'state' has the shape \[1\]"),
        ({}, "the observation has no 'state'"),
        ({"state": ["a", "b"]}, "observation 'state' holds values of type"),
        ([0.0, 0.0], "no mapping of names"),
    ],
)
def test_an_observation_of_another_shape_is_one_line(
    tiny_bundle: Path, observation: dict[str, list[float]], said: str
) -> None:
    runner, _, clock = looping(tiny_bundle)
    with pytest.raises(UserError, match=said):
        runner.act(observation)
    assert act(runner, clock).source == "planned"


def test_a_run_of_infinite_seconds_ends_where_its_caller_says_so(tiny_bundle: Path) -> None:
    runner, _, _ = looping(tiny_bundle)
    sent: list[np.ndarray] = []
    assert runner.run(lambda: SEEN, sent.append, float("inf"), stop=lambda: len(sent) >= 7).ticks == 7
    for seconds in (float("nan"), -1.0, float("-inf")):
        with pytest.raises(UserError, match="give 0 or more"):
            runner.run(lambda: SEEN, sent.append, seconds)
    assert len(sent) == 7
