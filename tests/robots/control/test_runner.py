"""The control loop under a virtual clock, with networks of any speed, and once under the real clock."""

import gc
import threading
import time
import tracemalloc
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from fewstep.robots.control import PolicyRunner, Rhythm, VirtualClock, statistics
from fewstep.runtime import Sampler, UserError
from fewstep.runtime.bundle.manifest import Policy
from tests.robots.control.looping_runner import RATE, TICK, act, acts, looping
from tests.robots.control.tiny_policy import BAD, EXECUTED, HORIZON, SEEN, ramp, tiny_policy


def test_sequences_follow_each_other_without_a_gap(tiny_bundle: Path) -> None:
    runner, network, clock = looping(tiny_bundle)
    actions = acts(runner, clock, 3 * EXECUTED)
    assert [action.source for action in actions] == ["planned"] * 12
    assert [action.age for action in actions] == [0, 1, 2, 3] * 3
    assert [round(100 * float(action.value[0])) for action in actions] == [0, 1, 2, 3] * 3
    found = runner.statistics
    assert (found.ticks, found.late, found.held, found.missed) == (12, 0, 0, 0)
    assert dict(found.plans) == {"ddim:4": 3} and dict(found.steps) == {4: 3}


def test_a_cold_start_waits_and_says_so(tiny_bundle: Path) -> None:
    slow = {"seconds": 0.01, "plans": ("ddim:3",), "deadline": 1.0}
    runner, _, clock = looping(tiny_bundle, **slow, expected=0.03)
    actions = acts(runner, clock, 5)
    assert [action.source for action in actions] == ["waiting"] * 3 + ["planned"] * 2
    assert [action.value is None for action in actions] == [True] * 3 + [False] * 2
    assert actions[3].age == 3 and actions[3].value[0] == 0
    still, _, clock = looping(tiny_bundle, **slow, idle=[0.5, 0.5])
    assert act(still, clock).value.tolist() == [0.5, 0.5] and still.statistics.waiting == 1


def test_an_action_is_the_callers_own(tiny_bundle: Path) -> None:
    """Whatever a caller writes into actions, later actions and the statistics are unchanged."""

    def run(offset: float) -> tuple[list[list[float]], PolicyRunner]:
        runner, network, clock = looping(tiny_bundle, plans=("ddim:1",), deadline=10.0)
        made = []
        for tick in range(40):
            action = act(runner, clock)
            assert action.value is not None
            made.append(action.value.tolist())
            action.value[:] += offset
            network.seconds = 30 * TICK if tick > EXECUTED else 0.0  # held ticks too
        return made, runner

    kept, runner = run(0.0)
    written, other = run(5.0)
    assert written == kept and runner.statistics.held == other.statistics.held > 0
    assert other.statistics.seam == runner.statistics.seam


def test_an_idle_action_is_copied(tiny_bundle: Path) -> None:
    idle = np.full(2, 0.5, np.float32)
    runner, _, clock = looping(tiny_bundle, seconds=0.01, plans=("ddim:3",), deadline=1.0, idle=idle)
    action = act(runner, clock)
    assert action.source == "waiting" and action.value is not None
    action.value[:] += 1
    idle += 1
    assert act(runner, clock).value.tolist() == [0.5, 0.5]


def test_a_slow_sampler_leaves_late_and_held_ticks_and_each_says_so(tiny_bundle: Path) -> None:
    runner, network, clock = looping(tiny_bundle, plans=("ddim:1",), deadline=10.0)
    acts(runner, clock, EXECUTED)
    network.seconds = 30 * TICK  # longer than the sequence of 16 ticks
    actions = acts(runner, clock, 30)
    assert [action.source for action in actions] == ["late"] * (HORIZON - EXECUTED) + ["held"] * (
        30 - HORIZON + EXECUTED
    )
    assert all(np.array_equal(action.value, actions[HORIZON - EXECUTED].value) for action in actions[12:])
    assert runner.statistics.held == 18
    late = act(runner, clock)  # 12 of its 16 actions belong to those that were executed meanwhile
    assert late.age == 30 and late.value[0] == pytest.approx(0.12) and runner.statistics.dropped == 0


def test_a_late_sequence_of_the_last_episode_is_dropped(tiny_bundle: Path) -> None:
    runner, network, clock = looping(tiny_bundle, seconds=5 * TICK, plans=("ddim:1",), deadline=1.0)
    act(runner, clock)
    runner.reset(seed=1)
    waited = acts(runner, clock, 12)
    assert [each.source for each in waited[:9]] == ["waiting"] * 9  # 4 ticks of the old one, 5 of its own
    first = next(each for each in waited if each.source != "waiting")
    assert first.value[1] == pytest.approx(0.002)  # the network's second call
    assert runner.statistics.dropped == 1


def test_at_the_deadline_the_prediction_is_the_sequence(tiny_bundle: Path) -> None:
    runner, network, clock = looping(tiny_bundle, plans=("ddim:4",), deadline=2.5 * TICK)
    act(runner, clock)
    network.seconds = TICK
    actions = acts(runner, clock, 2 * EXECUTED)
    found = runner.statistics
    assert found.cut == found.missed >= 1 and found.steps[3] == found.cut
    assert all(np.isfinite(action.value).all() for action in actions)


def test_the_best_plan_that_keeps_the_deadline_is_used_and_a_better_one_is_tried_again(tiny_bundle: Path) -> None:
    runner, network, clock = looping(tiny_bundle, seconds=0.3 * TICK)  # 4 steps take 1.2 ticks, the deadline is one
    runner.warm_up(SEEN)
    acts(runner, clock, 60)
    found = runner.statistics
    assert dict(found.plans) == {"ddim:1": 20} and found.missed == 0
    network.seconds = 0.1 * TICK
    runner.warm_up(SEEN)
    act(runner, clock)
    network.seconds = TICK / 2  # a spell of slowness
    acts(runner, clock, 8)
    network.seconds = 0.1 * TICK
    acts(runner, clock, 4 * 210)
    plans = runner.statistics.plans
    assert plans["ddim:4"] > 5 and plans["ddim:1"] >= 200 + 15


def test_warming_up_is_no_part_of_the_statistics(tiny_bundle: Path) -> None:
    runner, network, clock = looping(tiny_bundle, seconds=TICK)
    runner.warm_up(SEEN)
    assert network.calls == (2 + 20) * (4 + 1)
    assert runner.statistics.sampling.count == 0 and runner.statistics.ticks == 0


def test_a_clock_that_jumps_is_counted_and_changes_no_action(tiny_bundle: Path) -> None:
    def run(jump: float) -> tuple[list[float], PolicyRunner]:
        runner, network, clock = looping(tiny_bundle)
        made = []
        for tick in range(40):
            runner.observe(SEEN)
            if tick == 13:
                clock.advance(jump)
            made.append(float(runner.action().value[0]))
            clock.advance(TICK)
        return made, runner

    still, _ = run(0.0)
    back, runner = run(-100.0)
    assert back == still and runner.statistics.jumps >= 1
    assert run(1e6)[0] == still


def test_a_run_goes_on_at_its_rate_when_the_clock_is_set_back(tiny_bundle: Path) -> None:
    runner, network, clock = looping(tiny_bundle)
    times: list[float] = []

    def observe() -> dict[str, list[float]]:
        times.append(clock.now())
        if len(times) == 5:
            clock.advance(-5.0)
        return SEEN

    statistics = runner.run(observe, lambda action: None, 10 * TICK)
    np.testing.assert_allclose(np.diff(times), [TICK] * 4 + [-5.0] + [TICK] * 4, atol=1e-9)
    assert statistics.jumps == 1 and statistics.overrun == 0


def test_runners_that_share_a_clock_are_sampled_together_and_act_as_alone(tiny_bundle: Path) -> None:
    noisy: list[int] = []

    def network(x: np.ndarray) -> np.ndarray:
        noisy.append(len(x))
        return 0.5 * x

    sampler = tiny_policy(tiny_bundle, network)

    def run(seeds: list[int], together: bool) -> list[list[np.ndarray]]:
        shared = VirtualClock(delay=2 * TICK)
        clocks = [shared if together else VirtualClock(delay=2 * TICK) for _ in seeds]
        runners = [PolicyRunner(sampler, Rhythm(RATE, ("ddim:2",), deadline=1.0), clock=clock) for clock in clocks]
        for runner, seed in zip(runners, seeds, strict=True):
            runner.reset(seed)
        made: list[list[np.ndarray]] = [[] for _ in seeds]
        for _ in range(20):
            for runner in runners:
                runner.observe(SEEN)
            for runner, actions in zip(runners, made, strict=True):
                actions.append(runner.action().value)
            for clock in set(clocks):
                clock.advance(TICK)
        assert [actions[:2] for actions in made] == [[None, None]] * len(seeds)
        return [actions[2:] for actions in made]

    together = run([1, 2, 3], together=True)
    assert max(noisy) == 3
    assert np.array_equal(together, run([1, 2, 3], together=False))
    assert not np.array_equal(together[0], together[1])


RARE = ["nan", "reset", "slow", "fast", "fail", "heal", "jump"]
EVENTS = st.lists(st.sampled_from(["tick"] * 12 + RARE), max_size=80)


@settings(max_examples=30, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(EVENTS, st.sampled_from(["none", "hard"]))
def test_no_action_is_ever_not_finite_or_stale_without_saying_so(
    tiny_bundle: Path, events: list[str], continuity: str
) -> None:
    """A value is always finite or absent, and one that was not planned for its tick says so."""
    runner, network, clock = looping(tiny_bundle, continuity=continuity, plans=("ddim:2",))
    episode = 0
    for event in events:
        if event == "reset":
            episode += 1
            runner.reset(episode)
            continue
        if event in ("slow", "fast"):
            network.seconds = {"slow": 9 * TICK, "fast": 0.0}[event]
        elif event in ("fail", "heal"):
            network.fails = event == "fail"
        elif event == "jump":
            clock.advance(-1e3)
        action = act(runner, clock, BAD if event == "nan" else SEEN)
        if action.value is None:
            assert action.source == "waiting"
            continue
        assert np.isfinite(action.value).all()
        if action.source == "planned":
            assert action.age < HORIZON
        if action.source == "held":
            assert action.age >= HORIZON
        if event == "nan":
            assert action.problem


def test_a_run_ticks_at_the_rate_and_a_late_tick_does_not_hurry_the_others(tiny_bundle: Path) -> None:
    runner, network, clock = looping(tiny_bundle)
    began: list[float] = []
    sent: list[np.ndarray] = []

    def observe() -> dict[str, list[float]]:
        began.append(clock.now())
        if len(began) == 5:
            clock.advance(3.5 * TICK)  # a camera that hangs
        return SEEN

    found = runner.run(observe, sent.append, seconds=10 * TICK)
    between = np.diff(began) / TICK
    np.testing.assert_allclose(between, [1, 1, 1, 1, 3.5, 1, 1, 1, 1], atol=1e-6)
    assert len(sent) == found.ticks == 10 and found.overrun == 1
    assert runner.run(observe, sent.append, 1.0, stop=lambda: len(sent) >= 13).ticks == 13


@pytest.mark.slow
def test_a_long_run_keeps_no_more_than_its_record(tiny_bundle: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(statistics, "WINDOW", 50)
    runner, network, clock = looping(tiny_bundle, plans=("ddim:1",))
    held = []
    tracemalloc.start()
    try:
        for _ in range(3):
            acts(runner, clock, 200)
            gc.collect()
            held.append(tracemalloc.get_traced_memory()[0])
    finally:
        tracemalloc.stop()
    assert held[2] - held[1] < 20_000  # bytes


def test_on_the_wall_act_does_not_wait_for_the_sampler(tiny_bundle: Path) -> None:
    gate = threading.Event()

    def network(x: np.ndarray) -> np.ndarray:
        assert gate.wait(30)
        return ramp(x)

    with PolicyRunner(tiny_policy(tiny_bundle, network), Rhythm(RATE, ("ddim:1",), deadline=60.0)) as runner:
        actions = [runner.act(SEEN) for _ in range(5)]  # the sampler is blocked, and this returns
        assert {action.source for action in actions} == {"waiting"}
        gate.set()
        until = time.monotonic() + 30
        while runner.act(SEEN).value is None and time.monotonic() < until:
            time.sleep(0.001)
        assert runner.act(SEEN).value is not None
    with pytest.raises(UserError, match="the runner is closed"):
        runner.act(SEEN)


def test_discrete_places_are_no_part_of_the_seam(tiny_bundle: Path) -> None:
    def network(x: np.ndarray) -> np.ndarray:
        made = ramp(x).copy()
        made[..., 1] = np.sign(np.arange(HORIZON) % 3 - 1)
        return made

    sampler: Sampler = tiny_policy(tiny_bundle, network, Policy(1, 0, EXECUTED, discrete={1: (-1.0, 1.0)}))
    runner = PolicyRunner(sampler, Rhythm(RATE, ("ddim:1",)), continuity="none", clock=VirtualClock())
    for _ in range(40):
        assert abs(float(runner.act(SEEN).value[1])) == 1.0
    found = runner.statistics  # each sequence begins 0.03 below the end of the one before, where 0.01 is usual
    assert found.seam == pytest.approx(3.0, rel=1e-4) and found.jerk_contrast > 0
