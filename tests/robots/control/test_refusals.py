"""Mistakes of a runner's caller: each gives one line that names the object and the fix."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from fewstep.robots.control import Limits, PolicyRunner, Rhythm, VirtualClock
from fewstep.runtime import UserError
from fewstep.runtime.bundle.manifest import Condition, GraphEntry, PromptForm, StateWords, TextEncoderEntry
from tests.bundles import with_manifest_fields
from tests.refusals import refuses
from tests.robots.control.looping_runner import act, looping
from tests.robots.control.tiny_policy import SEEN, ramp, tiny_policy


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"plans": ()}, "plans is empty"),
        ({"plans": 5}, "plans is 5; give one or more, best first"),
        ({"execute": 17}, "execute 17; give a whole number from 1 to 16"),
        ({"fade": 1.5}, "fade 1.5; give a whole number from 0 to 16"),
        ({"deadline": 0.0}, "deadline is 0.0"),
        ({"expected": float("nan")}, "expected is nan; give seconds"),
        ({"expected": -0.1}, "expected is -0.1; give seconds"),
        ({"expected": float("inf")}, "expected is inf; give seconds"),
        ({"continuity": "sotf"}, "unknown continuity 'sotf'"),
        ({"continuity": "trained"}, "needs a policy with inputs for decided actions"),
        ({"idle": [0.0]}, r"idle is \[0.0\]; give one action \[2\]"),
        ({"idle": [0.0, float("nan")]}, "of finite numbers"),
        ({"idle": [0.0, [1.0]]}, "idle is not an array of numbers"),
        ({"deadline": "0.1"}, "deadline is '0.1'; give a number above 0"),
        ({"expected": "x"}, "expected is 'x'; give seconds"),
        ({"fade": 17}, "fade 17; give a whole number from 0 to 16"),
        (
            {"limits": Limits(beyond="stop")},
            "limits have an unknown value of beyond, 'stop'; choose one of clip, hold, refuse",
        ),  # type: ignore[arg-type]
        ({"limits": Limits(low=1.0, high=0.0)}, "low 1.0 is above high 0.0"),
        ({"limits": Limits(high=[1.0, 2.0, 3.0])}, r"high \[1.0, 2.0, 3.0\] has the shape \[3\], not \[2\]"),
        ({"limits": Limits(high=float("nan"))}, "high nan contains NaN"),
        ({"limits": Limits(change=0.0)}, "change is 0.0; give units per second, above 0"),
        ({"limits": Limits(low=0.0), "idle": [-1.0, 0.0]}, r"the idle action \[-1.0, 0.0\] exceeds the limits"),
        ({"most_held": -1}, "most_held -1; give a whole number from 0 up"),
        ({"pose": "observation.state"}, r"pose is 'observation.state'; give a function of the observation"),
        ({"control": "speed"}, "control is 'speed'; choose one of position, velocity"),
    ],
)
def test_what_a_runner_cannot_do_is_one_line(tiny_bundle: Path, options: dict[str, object], said: str) -> None:
    with pytest.raises(UserError, match=said):
        looping(tiny_bundle, **options)


def test_a_rate_and_a_clock_are_what_they_are(tiny_bundle: Path) -> None:
    sampler = tiny_policy(tiny_bundle, ramp)
    for rate in ("20", None, 0, True, float("nan")):
        with refuses("rate", "a number above 0"):
            PolicyRunner(sampler, Rhythm(rate))  # type: ignore[arg-type]
    with refuses(("'x'", "clock"), "WallClock"):
        PolicyRunner(sampler, Rhythm(20), clock="x")  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("parts", "former", "said"),
    [
        ((20.0,), {}, r"the rhythm of a runner is 20.0; give a Rhythm: PolicyRunner\(sampler, Rhythm"),
        ((Rhythm(20.0), 3), {}, "the safety of a runner is 3"),
        ((Rhythm(20.0),), {"fade": 4}, "no longer has the option 'fade'; fade is now part of Rhythm"),
        ((Rhythm(20.0),), {"limits": None}, "no longer has the option 'limits'; limits is now part of Safety"),
        ((Rhythm(20.0),), {"colour": 4}, "no option 'colour'; give"),
    ],
)
def test_former_options_name_the_part_that_they_are_of(
    tiny_bundle: Path, parts: tuple[Any, ...], former: dict[str, Any], said: str
) -> None:
    with pytest.raises(UserError, match=said):
        PolicyRunner(tiny_policy(tiny_bundle, ramp), *parts, **former)


@pytest.mark.parametrize(
    ("method", "wrong", "named"),
    [
        ("delay", [-1, float("nan"), float("inf"), "x", None], "delay .*; give seconds, 0 or more"),
        ("advance", [float("nan"), float("inf"), "x"], "the clock cannot advance by .*; give a finite number"),
        ("reset", [1.5, "a", None, -1, 2**40], "seed .*; give a whole number from 0 to 1099511627775"),
    ],
)
def test_delays_times_and_seeds_are_numbers(tiny_bundle: Path, method: str, wrong: list[Any], named: str) -> None:
    runner, _, clock = looping(tiny_bundle)
    call = {"delay": VirtualClock, "advance": clock.advance, "reset": runner.reset}[method]
    for number in wrong:
        with pytest.raises(UserError, match=named):
            call(number)
    clock.advance(-1.0)  # set back
    assert clock.now() == -1.0


def test_a_string_is_one_plan(tiny_bundle: Path) -> None:
    runner, _, clock = looping(tiny_bundle, plans="ddim:2")
    act(runner, clock)
    assert dict(runner.statistics.plans) == {"ddim:2": 1}


def test_an_observation_of_another_form_raises_only_before_the_robot_moves(tiny_bundle: Path) -> None:
    runner, _, clock = looping(tiny_bundle)
    other = {"state": [0.0, 0.0, 0.0]}
    with pytest.raises(UserError, match="'state': one value has the shape"):
        runner.act(other)
    assert act(runner, clock).source == "planned"
    rejected = act(runner, clock, other)
    assert rejected.source == "planned" and "'state': one value has the shape" in (rejected.problem or "")


def test_a_run_of_infinite_seconds_ends_where_its_caller_says_so(tiny_bundle: Path) -> None:
    runner, _, _ = looping(tiny_bundle)
    sent: list[np.ndarray] = []
    assert runner.run(lambda: SEEN, sent.append, float("inf"), stop=lambda: len(sent) >= 7).ticks == 7
    for seconds in (float("nan"), -1.0, float("-inf"), "2", None):
        with pytest.raises(UserError, match="give 0 or more"):
            runner.run(lambda: SEEN, sent.append, seconds)  # type: ignore[arg-type]
    assert len(sent) == 7


class Words:
    """A stand-in for a text encoder that records what it encodes."""

    state = None
    conditions = ("task",)

    def __init__(self) -> None:
        self.encoded: list[str] = []

    def encode(self, prompts: list[str], state: object = None) -> dict[str, np.ndarray]:
        self.encoded += prompts
        return {"task": np.zeros((1, 2), np.float32)}


def test_an_episode_that_is_refused_leaves_the_prompt_of_the_last_one(tiny_bundle: Path) -> None:
    task, words = Condition("task", "task", (2,), "float32"), Words()
    sampler = tiny_policy(tiny_bundle, ramp, others=(task,))
    runner = PolicyRunner(sampler, Rhythm(20), clock=VirtualClock(), text=words)  # type: ignore[arg-type]
    runner.reset(prompt="push")
    with pytest.raises(UserError, match="unknown condition 'colour'"):
        runner.reset(prompt="pull", conditions={"colour": [1.0]})
    with pytest.raises(UserError, match="the episode has no prompt"):
        runner.reset()
    assert words.encoded == ["push"]


def test_a_policy_whose_prompt_holds_an_observation_needs_its_text_encoder(tiny_bundle: Path) -> None:
    sampler = tiny_policy(tiny_bundle, ramp)
    form = PromptForm("{task}, {state}", state=StateWords("joints", (1.0, 1.0), (0.0, 0.0), 256))
    text = TextEncoderEntry(GraphEntry("text.onnx", (), ()), (), form)
    with refuses("'joints'", "PolicyRunner(text="):
        PolicyRunner(with_manifest_fields(sampler, text=text), Rhythm(20))
