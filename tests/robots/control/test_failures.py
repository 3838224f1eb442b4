"""A failure in a control loop, of an observation, a sample or a call, is reported, and the loop continues."""

from pathlib import Path

import numpy as np
import pytest

from fewstep.robots.control import History, PolicyRunner, Rhythm, VirtualClock
from fewstep.runtime.bundle.manifest import Condition
from tests.refusals import refuses
from tests.robots.control.looping_runner import RATE, TICK, Slow, act, acts, looping
from tests.robots.control.tiny_policy import BAD, EXECUTED, HORIZON, SEEN, ramp, tiny_policy


def test_an_observation_that_is_not_finite_is_reported_and_never_sampled_from(tiny_bundle: Path) -> None:
    runner, network, clock = looping(tiny_bundle)
    first = act(runner, clock, BAD)
    assert first.value is None and "'state': nan is not a finite float32" in (first.problem or "")
    assert network.calls == 0
    for _ in range(EXECUTED):
        assert act(runner, clock).problem is None
    calls = network.calls
    blind = acts(runner, clock, HORIZON, BAD)
    assert network.calls == calls and all(each.problem for each in blind)
    assert [each.source for each in blind] == ["late"] * 12 + ["held"] * 4
    assert act(runner, clock).source == "planned" and runner.statistics.rejected == 17


def test_a_sensor_that_drops_out_is_reported_and_the_sequence_continues(tiny_bundle: Path) -> None:
    runner, network, clock = looping(tiny_bundle)
    acts(runner, clock, EXECUTED)
    calls = network.calls
    blind = acts(runner, clock, 3, {"state": None})
    assert {each.problem for each in blind} == {"condition 'state' holds None"} and network.calls == calls
    assert [round(100 * float(each.value[0])) for each in blind] == [4, 5, 6]  # of the present sequence
    assert act(runner, clock).source == "planned"
    assert runner.statistics.rejected == 3 and runner.statistics.failed == 0


def test_a_name_that_was_never_observed_is_refused(tiny_bundle: Path) -> None:
    runner, _, clock = looping(tiny_bundle)
    with refuses(("the observation has no 'state'",), "give state"):
        runner.warm_up({"stat": [0.0, 0.0]})
    act(runner, clock, BAD)
    with refuses(("the observation has no 'state'",), "give state"):
        act(runner, clock, {"stat": [0.0, 0.0]})


def test_a_sensor_that_is_missing_later_is_rejected_also_in_the_first_tick_of_an_episode(tiny_bundle: Path) -> None:
    runner, _, clock = looping(tiny_bundle)
    assert act(runner, clock).source == "planned"
    runner.reset(1)
    missing = act(runner, clock, {})
    assert (missing.source, missing.problem) == ("waiting", "the observation has no 'state'")
    assert act(runner, clock).source == "planned" and runner.statistics.rejected == 1


def test_a_missing_camera_names_the_page_that_helps(tiny_bundle: Path) -> None:
    camera = Condition("camera", "camera", (1, 3, 4, 4), "uint8")
    history = History(tiny_policy(tiny_bundle, ramp, others=(camera,)))
    with refuses(("the observation has no 'camera'",), "docs/policies.md, A missing camera"):
        history.add(SEEN)


def test_what_the_policy_does_not_look_at_may_be_anything(tiny_bundle: Path) -> None:
    runner, _, clock = looping(tiny_bundle)
    action = act(runner, clock, {**SEEN, "temperature": [np.nan]})
    assert action.source == "planned" and action.problem is None


def test_a_sample_that_is_not_finite_is_reported_and_the_former_one_continues(tiny_bundle: Path) -> None:
    runner, network, clock = looping(tiny_bundle)
    acts(runner, clock, EXECUTED)
    network.fails = True
    action = act(runner, clock)
    assert action.source == "late" and "not finite" in (action.problem or "") and np.isfinite(action.value).all()
    network.fails = False
    assert act(runner, clock).age == 0 and runner.statistics.failed == 1


@pytest.mark.parametrize("error", [RuntimeError("out of luck"), MemoryError("out of luck")])
def test_any_failure_of_a_network_leaves_the_loop_running(tiny_bundle: Path, error: Exception) -> None:
    runner, network, clock = looping(tiny_bundle)
    acts(runner, clock, EXECUTED)
    network.error = error
    action = act(runner, clock)
    assert action.source == "late" and action.problem == f"{type(error).__name__}: out of luck"
    assert runner.statistics.failed == 1
    network.error = None
    assert act(runner, clock).age == 0


def test_a_plan_that_fails_is_no_fast_one_and_the_next_one_is_taken(tiny_bundle: Path) -> None:
    runner, network, clock = looping(tiny_bundle)
    act(runner, clock)
    network.fails = True
    acts(runner, clock, EXECUTED)
    network.fails = False
    acts(runner, clock, EXECUTED)
    found = runner.statistics
    assert dict(found.plans) == {"ddim:4": 2, "ddim:1": 1} and dict(found.steps) == {4: 1, 1: 1}
    assert found.failed == 1 and found.sampling.count == 2


@pytest.mark.parametrize("fine", [0, 2, 4, 43])  # evaluations before the first that fails: of 22 calls of 2
def test_a_call_that_fails_while_warming_up_is_one_line(tiny_bundle: Path, fine: int) -> None:
    network = Slow(VirtualClock())

    def failing(x: np.ndarray) -> np.ndarray:
        network.fails = network.calls >= fine
        return network(x)

    runner = PolicyRunner(tiny_policy(tiny_bundle, failing), Rhythm(RATE, ("ddim:2",)), clock=network.clock)
    with refuses(("'ddim:2'", "not finite")):
        runner.warm_up(SEEN)


def test_a_pose_function_that_raises_rejects_its_tick(tiny_bundle: Path) -> None:
    runner, _, clock = looping(tiny_bundle, pose=lambda seen: [seen["state"][0], seen["wrist"][0]])  # type: ignore[index]
    observation = SEEN | {"wrist": [0.0]}
    rejected = act(runner, clock)
    assert rejected.source == "waiting" and rejected.problem == "Safety.pose raises KeyError: 'wrist'"
    assert [act(runner, clock, observation).source for _ in range(3)] == ["planned"] * 3
    rejected = act(runner, clock)
    assert rejected.source == "planned" and rejected.problem == "Safety.pose raises KeyError: 'wrist'"
    assert runner.statistics.rejected == 2


def test_a_sequence_that_a_reset_drops_is_a_problem(tiny_bundle: Path) -> None:
    runner, _, clock = looping(tiny_bundle, seconds=3 * TICK, plans="ddim:1", deadline=9.0)
    act(runner, clock)
    runner.reset(1)
    problems = [act(runner, clock).problem for _ in range(8)]
    assert [problem is not None for problem in problems].count(True) == 1
    assert any("it was observed in an earlier episode" in (problem or "") for problem in problems)
    assert runner.statistics.dropped == 1


def test_calls_that_outlast_the_horizon_drop_no_sequence_once_they_were_measured(tiny_bundle: Path) -> None:
    """A call takes 20 ticks, and its sequence has 16 actions, of which 4 are used before the next takes over."""
    runner, _, clock = looping(tiny_bundle, seconds=20 * TICK, plans="ddim:1", deadline=9.0)
    acts(runner, clock, 100)
    dropped = runner.statistics.dropped
    actions = acts(runner, clock, 400)
    moved = [action for action in actions if action.source in ("planned", "late")]
    assert runner.statistics.dropped == dropped <= 1
    assert len(moved) >= 400 * 4 // 24
