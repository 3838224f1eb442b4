"""Conditions of an episode, which are not observed at each tick: a runner takes those of the policy."""

from pathlib import Path

import numpy as np
import pytest

from fewstep.robots.control import PolicyRunner, Rhythm, VirtualClock
from fewstep.runtime import UserError
from fewstep.runtime.bundle.manifest import Condition
from tests.refusals import refuses
from tests.robots.control.looping_runner import RATE, looping
from tests.robots.control.tiny_policy import SEEN, ramp, tiny_policy

TASK = Condition("task", "task", (2,), "float32", low=0.0, high=1.0)
SPEED = Condition("speed", "speed", (), "float32", default=(1.0,))


def runner_of(bundle: Path) -> PolicyRunner:
    return PolicyRunner(tiny_policy(bundle, ramp, None, (TASK, SPEED)), Rhythm(RATE, ("ddim:1",)), clock=VirtualClock())


@pytest.mark.parametrize(
    ("conditions", "said"),
    [
        ({"tsk": [0.0, 1.0]}, "unknown condition 'tsk'; give task, speed"),
        ({"speed": 2.0}, "condition 'task' of the episode is missing"),
        (
            None,
            "'task' of the episode is missing; give task, speed in the argument conditions, to both reset and warm_up",
        ),
        ({"task": 1}, r"condition 'task': one value has the shape \[\]"),
        ({"task": [0.0, np.nan]}, "condition 'task': nan is not a finite float32"),
        ({"task": [0.0, 2.0]}, "condition 'task': 2.0 is out of range"),
        ({"task": [0.0, 1.0], "state": [[0.0, 0.0]]}, "condition 'state' is observed at each tick"),
        ([1.0], "not a mapping of names to values"),
    ],
)
def test_conditions_of_an_episode_are_checked_when_it_begins(tiny_bundle: Path, conditions: object, said: str) -> None:
    runner = runner_of(tiny_bundle)
    for begin in (lambda: runner.reset(0, conditions), lambda: runner.warm_up(SEEN, conditions)):  # type: ignore[arg-type]
        with pytest.raises(UserError, match=said):
            begin()


def test_an_episode_with_its_conditions_runs(tiny_bundle: Path) -> None:
    runner, task = runner_of(tiny_bundle), np.float32([0.0, 1.0])
    runner.warm_up(SEEN, {"task": task})
    with refuses(("'task'", "missing")):
        runner.act(SEEN)  # of no episode yet
    runner.reset(1, {"task": task})
    task += 9  # the runner has its own
    assert [runner.act(SEEN).source for _ in range(8)] == ["planned"] * 8


def test_a_policy_that_observes_all_has_no_conditions_of_an_episode(tiny_bundle: Path) -> None:
    runner, _, _ = looping(tiny_bundle)
    with pytest.raises(UserError, match="unknown condition 'task'; leave it out"):
        runner.reset(conditions={"task": 1})
    assert runner.act(SEEN).source == "planned"
