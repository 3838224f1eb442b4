"""When sequences begin, the delay that follows from measured seconds, and the transition between sequences."""

from pathlib import Path

import numpy as np
import pytest

from fewstep.robots.control import PolicyRunner, Rhythm, VirtualClock, delay_ticks
from fewstep.robots.control.clocks import SequenceJob, VirtualRun
from fewstep.robots.control.latency import latency_quantile
from fewstep.robots.control.statistics import Record
from tests.robots.control.looping_runner import RATE, TICK, act, acts, looping
from tests.robots.control.tiny_policy import EXECUTED, SEEN, ramp, tiny_policy


def test_the_delay_that_was_measured_is_held_and_no_action_is_skipped(tiny_bundle: Path) -> None:
    runner, network, clock = looping(tiny_bundle, seconds=2 * TICK, plans=("ddim:1",), deadline=1.0)
    runner.warm_up(SEEN)
    actions = acts(runner, clock, 40)
    steps = np.diff([float(action.value[0]) for action in actions[2:]])
    joins = np.flatnonzero(np.diff([action.age for action in actions[2:]]) < 0)
    assert {action.source for action in actions[2:]} == {"planned"}
    assert len(joins) >= 16 and np.diff(joins).tolist() == [2] * (len(joins) - 1)
    assert max(action.age for action in actions[2:]) == EXECUTED - 1
    inside = np.delete(steps, joins)
    np.testing.assert_allclose(inside, 0.01, atol=1e-6)


@pytest.mark.parametrize(("delay", "execute", "oldest"), [(0, 8, 7), (1, 8, 7), (3, 8, 7), (4, 8, 7), (6, 8, 11)])
def test_a_delay_makes_no_action_older_as_long_as_calls_can_follow_each_other(
    tiny_bundle: Path, delay: int, execute: int, oldest: int
) -> None:
    clock = VirtualClock(delay=delay * TICK)
    sampler = tiny_policy(tiny_bundle, ramp)
    rhythm = Rhythm(RATE, ("ddim:1",), deadline=1.0, expected=delay * TICK, execute=execute)
    runner = PolicyRunner(sampler, rhythm, clock=clock)
    actions = acts(runner, clock, 60)
    assert max(action.age for action in actions) == oldest
    assert [action.source for action in actions] == ["waiting"] * delay + ["planned"] * (60 - delay)


def test_one_slow_call_makes_no_later_action_older(tiny_bundle: Path) -> None:
    runner, network, clock = looping(tiny_bundle, plans=("ddim:1",), deadline=1.0)
    runner.warm_up(SEEN)
    network.seconds = 10 * TICK  # the delay that is expected from now on
    acts(runner, clock, 20)
    network.seconds = 0.5 * TICK
    actions = acts(runner, clock, 40)[12:]
    assert max(action.age for action in actions) < EXECUTED
    assert {action.source for action in actions} == {"planned"}


def test_a_fade_takes_over_in_a_line_and_changes_no_discrete_place(tiny_bundle: Path) -> None:
    """Joint 0 has the same ramp in each sequence. Joint 1 has the number of the call."""
    runner, network, clock = looping(tiny_bundle, plans=("ddim:1",), fade=3)
    actions = acts(runner, clock, 2 * EXECUTED)
    assert [round(1000 * float(action.value[1]), 2) for action in actions] == [1, 1, 1, 1, 1.25, 1.5, 1.75, 2]
    assert [round(100 * float(action.value[0]), 2) for action in actions[4:]] == [3, 3, 3, 3]
    assert {action.source for action in actions} == {"planned"}


@pytest.mark.parametrize("expected", [3 * TICK, None])  # a virtual clock knows its delay
def test_the_delay_that_is_expected_is_held_from_the_first_sequence_on(
    tiny_bundle: Path, expected: float | None
) -> None:
    clock = VirtualClock(delay=3 * TICK)
    decided = []
    start = clock.start

    def watching(job: SequenceJob) -> VirtualRun:
        decided.append(job.request.decided)
        return start(job)

    clock.start = watching  # type: ignore[method-assign]
    sampler = tiny_policy(tiny_bundle, ramp)
    runner = PolicyRunner(sampler, Rhythm(RATE, ("ddim:1",), deadline=1.0, expected=expected), clock=clock)
    assert [act(runner, clock).source for _ in range(20)] == ["waiting"] * 3 + ["planned"] * 17
    assert decided == [0, 3, 3, 3, 3, 3, 3]  # more than half of the four: call follows call


@pytest.mark.parametrize("continuity", ["hard", "none"])
def test_a_fade_of_a_sequence_that_came_early_begins_after_the_actions_that_were_held(
    tiny_bundle: Path, continuity: str
) -> None:
    runner, network, clock = looping(tiny_bundle, plans=("ddim:1",), deadline=1.0, continuity=continuity, fade=1)
    network.seconds = 2 * TICK
    runner.warm_up(SEEN)  # two actions are held from now on
    network.seconds = 0.0
    network.calls = 0
    actions = acts(runner, clock, EXECUTED + 1)  # the second sequence begins at tick 2, and is there
    calls = [round(1000 * float(action.value[1]), 2) for action in actions]
    assert [action.age for action in actions] == [0, 1, 0, 1, 0]
    assert calls == ([1, 1, 1, 1, 1.5] if continuity == "hard" else [1, 1, 1.5, 2, 2.5])


def test_no_deadline_cuts_the_delay_of_a_virtual_clock(tiny_bundle: Path) -> None:
    clock = VirtualClock(delay=2 * TICK)
    runner = PolicyRunner(tiny_policy(tiny_bundle, ramp), Rhythm(RATE, ("ddim:2",), deadline=TICK), clock=clock)
    acts(runner, clock, 20)
    found = runner.statistics
    assert found.missed == found.sampling.count > 4 and found.cut == 0


def test_one_slow_call_in_a_hundred_is_the_quantile() -> None:
    assert latency_quantile([*[0.002] * 99, 0.5]) == 0.5
    assert latency_quantile([*[0.003] * 199, 0.5]) == 0.003


def test_a_tick_that_is_begun_goes_by() -> None:
    assert delay_ticks(0.051, 20) == 2 and delay_ticks(0.05, 20) == 1 and delay_ticks(0.0, 20) == 0


def test_a_summary_is_a_few_lines_in_milliseconds() -> None:
    record = Record()
    record.counts.update(ticks=8, late=1, waiting=2, missed=1)
    record.plans.update({"ddim:2": 2, "ddim:1": 1})
    record.sampling.extend([0.010, 0.010, 0.0123456])
    assert str(record.summary()).splitlines() == [
        "ticks: 8, of them 5 planned, 1 late, 0 held, 0 stopped, 2 waiting; "
        "0 limited, 0 overrun, 0 rejected, 0 jumps of the clock",
        "calls: 2 of ddim:2, 1 of ddim:1; 1 missed, 0 cut, 0 dropped, 0 failed",
        "sampling: 10.0 ms (p50), 12.3 ms (p99), 12.3 ms at most",
        "acting: none",
        "seam: nan, contrast of jerk: nan",
    ]
