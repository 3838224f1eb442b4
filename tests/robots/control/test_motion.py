"""Time that passed is not motion that happened.

The law: the first action of a sequence that a robot executes is at most one action's step away from the last action
that it executed, or from its measured pose. A sequence begins at the action that follows those which the robot has
executed since the sequence's observation.
"""

from collections.abc import Collection
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from fewstep.robots.control import Action, Limits, PolicyRunner, Rhythm, Safety, VirtualClock
from fewstep.robots.control.clocks import SequenceJob, VirtualRun
from fewstep.robots.control.limits import Beyond
from fewstep.robots.control.safety import NO_LIMITS
from fewstep.robots.control.statistics import Start
from fewstep.runtime.bundle.manifest import Policy
from fewstep.runtime.kinds.policies import Control
from tests.refusals import refuses
from tests.robots.control.looping_runner import RATE, TICK, acts
from tests.robots.control.path_robot import jumps
from tests.robots.control.tiny_policy import BAD, HORIZON, SEEN, ramp, tiny_policy

HERTZ = 30.0
FEW, MANY, BLOCK = 200, 10_000, 500  # timelines
LENGTH = 40


def act(
    bundle: Path,
    seconds: list[float],
    ticks: int,
    safety: Safety = NO_LIMITS,
    bad: Collection[int] = (),
    resets: Collection[int] = (),
    **rhythm: Any,
) -> tuple[list[Action], PolicyRunner]:
    """Return the actions of a loop at 30 Hz whose calls take these seconds in turn, the last for all further calls.

    Action k of each sequence of 40 is k / 100, and 20 of them are used. `bad`: ticks with an unusable observation.
    `resets`: ticks at which an episode begins.
    """
    clock, calls = VirtualClock(), iter(seconds)

    def network(x: np.ndarray) -> np.ndarray:
        clock.spend(next(calls, seconds[-1]))
        return np.broadcast_to(np.arange(LENGTH)[:, None] / 100, x.shape)

    sampler = tiny_policy(bundle, network, shape=(LENGTH, 2))
    runner = PolicyRunner(
        sampler,
        Rhythm(**{"rate": HERTZ, "plans": "ddim:1", "execute": 20, "deadline": 99.0} | rhythm),
        safety,
        clock=clock,
    )
    actions = []
    for tick in range(ticks):
        if tick in resets:
            runner.reset(tick)
        actions.append(runner.act(BAD if tick in bad else SEEN))
        clock.advance(1 / HERTZ)
    return actions, runner


def hundredths(actions: list[Action]) -> list[int | None]:
    return [None if action.value is None else round(100 * float(action.value[0])) for action in actions]


def test_after_a_slow_first_call_the_first_action_is_the_first_of_its_sequence(tiny_bundle: Path) -> None:
    actions, _ = act(tiny_bundle, [0.7, 0.1], 26, expected=0.7)
    assert hundredths(actions) == [None] * 21 + [0, 1, 2, 3, 4]
    assert (actions[21].source, actions[21].age) == ("planned", 21)


def test_after_a_slow_call_only_the_executed_actions_are_skipped(tiny_bundle: Path) -> None:
    actions, _ = act(tiny_bundle, [0.1, 0.1, 1.2, 0.1], 76)
    assert [action.source for action in actions[60:74]] == ["held"] * 13 + ["planned"]
    assert hundredths(actions[59:75]) == [39] * 14 + [23, 24]


def test_calls_longer_than_the_horizon_move_a_robot_of_positions(tiny_bundle: Path) -> None:
    """Calls take 60 ticks. The second one begins with the first action, and the robot executes all 40 meanwhile."""
    actions, runner = act(tiny_bundle, [2.0], 221)
    assert hundredths(actions) == [None] * 60 + [*range(40), *[39] * 80] + [*range(40), 39]
    assert [tick for tick, action in enumerate(actions) if action.problem] == [120]
    assert actions[120].problem == (
        "a sequence was dropped: its call took 60 ticks (2 s), and its horizon is 40 actions (1.33 s)"
    )
    assert (runner.statistics.dropped, runner.statistics.waiting) == (1, 60)


def test_velocities_of_calls_longer_than_the_horizon_are_dropped(tiny_bundle: Path) -> None:
    actions, runner = act(tiny_bundle, [2.0], 181, control="velocity")
    assert hundredths(actions) == [None] * 181 and runner.statistics.dropped == 3
    assert actions[60].problem == (
        "a sequence was dropped: its call took 60 ticks (2 s), and its horizon is 40 actions (1.33 s)"
    )


def test_sequences_of_velocities_are_tied_to_time(tiny_bundle: Path) -> None:
    cold, _ = act(tiny_bundle, [0.7, 0.1], 22, control="velocity")
    assert hundredths(cold) == [None] * 21 + [21]
    held, _ = act(tiny_bundle, [0.1, 0.1, 1.2, 0.1], 76, control="velocity")
    assert hundredths(held[72:75]) == [39, 36, 37]


def test_a_policy_of_velocities_says_so_itself_and_a_rhythm_may_say_otherwise(tiny_bundle: Path) -> None:
    def first_action(control: Control | None) -> float:
        clock = VirtualClock(3 * TICK)
        sampler = tiny_policy(tiny_bundle, ramp, Policy(1, 0, 4, control="velocity"))
        runner = PolicyRunner(sampler, Rhythm(RATE, "ddim:1", deadline=1.0, control=control), clock=clock)
        return float(acts(runner, clock, 4)[3].value[0])  # type: ignore[index]

    assert (first_action(None), first_action("position")) == (pytest.approx(0.03), 0.0)


def test_a_virtual_clock_delays_the_first_call_like_all_others(tiny_bundle: Path) -> None:
    clock = VirtualClock(3 * TICK)
    runner = PolicyRunner(tiny_policy(tiny_bundle, ramp), Rhythm(RATE, "ddim:1", deadline=1.0), clock=clock)
    assert hundredths(acts(runner, clock, 6)) == [None] * 3 + [0, 1, 2]
    assert runner.statistics.waiting == 3


def test_a_sensor_that_returns_starts_a_sequence_at_its_first_action(tiny_bundle: Path) -> None:
    actions, _ = act(tiny_bundle, [0.1, 0.1, 0.5], 90, bad=range(21, 67))
    first = next(tick for tick in range(67, 90) if actions[tick].source != "held")
    assert first == 67 + 15 and actions[first].age == 15
    assert hundredths(actions[first - 1 : first + 3]) == [39, 0, 1, 2]


def test_an_episode_that_begins_in_motion_starts_at_the_first_action_of_its_own_sequence(tiny_bundle: Path) -> None:
    actions, _ = act(tiny_bundle, [0.1, 0.4], 60, resets=[30])
    assert actions[29].source == "late"
    first = next(tick for tick in range(30, 60) if actions[tick].source != "waiting")
    assert hundredths(actions[first : first + 3]) == [0, 1, 2] and first > 30 + 11


def test_a_robot_that_stopped_where_it_was_skips_what_it_has_executed(tiny_bundle: Path) -> None:
    actions, _ = act(tiny_bundle, [0.1, 0.1, 1.2, 0.1], 76, Safety(most_held=3))
    assert [action.source for action in actions[60:74]] == ["held"] * 3 + ["stopped"] * 10 + ["planned"]
    assert hundredths(actions[73:75]) == [23, 24]


def test_a_robot_that_stopped_at_the_idle_action_takes_no_sequence_from_before(tiny_bundle: Path) -> None:
    actions, runner = act(tiny_bundle, [0.1, 0.1, 1.2, 0.1], 80, Safety(most_held=3, idle=[-1.0, 0.0]))
    assert [action.source for action in actions[60:77]] == ["held"] * 3 + ["stopped"] * 13 + ["planned"]
    assert hundredths(actions[72:78]) == [-100] * 4 + [0, 1]  # the call that begins at tick 73
    assert runner.statistics.dropped == 1


@pytest.mark.parametrize(
    ("pose", "waits"),
    [
        (None, 7),  # the robot may be anywhere: the call begins after the first idle action
        ([0.3, 0.3], 7),  # it was measured elsewhere
        ([-1.0, -1.0], 6),  # it is at its idle action, which moves nothing
    ],
)
def test_a_later_episode_waits_for_one_call(tiny_bundle: Path, pose: list[float] | None, waits: int) -> None:
    """Calls take 6 ticks, and none runs at a reset. The first episode begins at the idle action."""
    safety = Safety(idle=[-1.0, -1.0], pose=lambda seen: pose)
    actions, runner = act(tiny_bundle, [0.2], 72, safety, resets=[24, 48], expected=0.2)
    waiting = [[action.source for action in actions[first : first + 24]].count("waiting") for first in (0, 24, 48)]
    assert waiting == [6, waits, waits] and runner.statistics.dropped == 0
    assert hundredths(actions[48 : 48 + waits + 2]) == [-100] * waits + [0, 1]


def test_an_idle_velocity_delays_no_call(tiny_bundle: Path) -> None:
    safety = Safety(idle=[-1.0, -1.0])
    actions, runner = act(tiny_bundle, [0.2], 32, safety, resets=[24], expected=0.2, control="velocity")
    assert hundredths(actions[24:]) == [-100] * 6 + [6, 7] and runner.statistics.dropped == 0


def test_a_call_without_delay_precedes_an_idle_action_that_would_move_the_robot(tiny_bundle: Path) -> None:
    actions, _ = act(tiny_bundle, [0.0], 32, Safety(idle=[-1.0, -1.0]), resets=[30])
    assert hundredths(actions[29:]) == [9, 0, 1]


def test_no_action_is_decided_while_the_robot_holds_its_last_one(tiny_bundle: Path) -> None:
    requests = []

    class Watched(VirtualClock):
        def start(self, job: SequenceJob) -> VirtualRun:
            requests.append(job.request)
            return super().start(job)

    clock = Watched(3 * TICK)
    runner = PolicyRunner(tiny_policy(tiny_bundle, ramp), Rhythm(RATE, "ddim:1", deadline=1.0), clock=clock)
    acts(runner, clock, 4)
    blind = acts(runner, clock, HORIZON, BAD)
    assert blind[-1].source == "held"
    acts(runner, clock, 1)
    assert [(None if request.former is None else len(request.former), request.decided) for request in requests] == [
        (None, 0),
        (HORIZON, 3),
        (None, 0),
    ]


@pytest.mark.parametrize(("beyond", "sent"), [("hold", [0, 1, 2, 2, 2]), ("refuse", [0, 1, 2, None, None])])
def test_an_action_that_a_limit_keeps_back_is_still_the_next_one(
    tiny_bundle: Path, beyond: Beyond, sent: list[int | None]
) -> None:
    def network(x: np.ndarray) -> np.ndarray:
        return np.broadcast_to(np.array([0, 1, 2, 9, *range(3, 15)])[:, None] / 100, x.shape)

    runner = PolicyRunner(
        tiny_policy(tiny_bundle, network, Policy(1, 0, 8)),
        Rhythm(RATE, "ddim:1"),
        Safety(Limits(high=0.05, beyond=beyond)),
        clock=VirtualClock(),
    )
    actions = [runner.act(SEEN) for _ in range(5)]
    assert hundredths(actions) == sent
    assert actions[4].problem == "element 0 of the action is 0.09, and its limit is 0.05"


def test_the_first_action_after_a_wait_is_limited_from_the_measured_pose(tiny_bundle: Path) -> None:
    limits = Limits(change=0.005 * HERTZ)
    measured = Safety(limits, pose=lambda seen: [-0.02, 0.0])
    actions, _ = act(tiny_bundle, [0.7, 0.1], 25, measured)
    np.testing.assert_allclose([action.value[0] for action in actions[21:]], [-0.015, -0.01, -0.005, 0.0], atol=1e-7)
    assert actions[21].problem == "element 0 of the action is 0, and its limit is -0.015"
    unknown, _ = act(tiny_bundle, [0.7, 0.1], 22, Safety(limits))
    assert unknown[21].value[0] == 0 and unknown[21].problem is None


@pytest.mark.parametrize(("measured", "first"), [(0.22, 23), (0.30, 28)])
def test_after_held_ticks_the_limit_applies_from_the_measured_pose(
    tiny_bundle: Path, measured: float, first: int
) -> None:
    """The last action is 39, the first new one 23, and the limit two hundredths a tick."""
    poses = iter([[0.0, 0.0]] * 60 + [[measured, measured]] * 14)
    safety = Safety(Limits(change=0.02 * HERTZ), pose=lambda seen: next(poses))
    actions, _ = act(tiny_bundle, [0.1, 0.1, 1.2, 0.1], 74, safety)
    assert hundredths(actions[72:]) == [39, first]


@pytest.mark.parametrize("limits", [Limits(change=0.5), Limits(high=0.3, beyond="hold")])
def test_an_action_that_is_held_does_not_follow_an_arm_that_sags(tiny_bundle: Path, limits: Limits) -> None:
    poses = iter([[0.0, 0.0]] * 40 + [[-0.3, 0.0]] * 60)
    actions, _ = act(tiny_bundle, [0.1, 0.1, 1.2], 73, Safety(limits, pose=lambda seen: next(poses)))
    last = 39 if limits.beyond == "clip" else 30
    assert hundredths(actions[62:]) == [last] * 11


def test_a_pose_that_was_not_measured_leaves_the_last_action(tiny_bundle: Path) -> None:
    limits = Limits(change=0.005 * HERTZ)
    for pose in (lambda seen: None, lambda seen: [np.nan, 0.0]):
        actions, _ = act(tiny_bundle, [0.7, 0.1], 22, Safety(limits, idle=[-0.1, 0.0], pose=pose))
        assert actions[21].value[0] == pytest.approx(-0.095)


@pytest.mark.parametrize(
    ("pose", "said"),
    [
        ([0.0, 0.0, 0.0], "Safety.pose returns a pose of the shape [3], and actions have [2]"),
        ("state", "the measured pose (Safety.pose) is not an array of numbers"),
    ],
)
def test_a_pose_of_another_shape_or_type_is_refused_at_first_and_rejected_later(
    tiny_bundle: Path, pose: Any, said: str
) -> None:
    with refuses((said,)):
        act(tiny_bundle, [0.1], 1, Safety(pose=lambda seen: pose))
    poses = iter([[0.0, 0.0], pose, [0.0, 0.0]])
    actions, runner = act(tiny_bundle, [0.0], 3, Safety(pose=lambda seen: next(poses)))
    assert [said in (action.problem or "") for action in actions] == [False, True, False]
    assert hundredths(actions) == [0, 1, 2] and runner.statistics.rejected == 1


def test_a_start_from_a_known_pose_counts_in_the_seam(tiny_bundle: Path) -> None:
    """The robot starts 0.05 away from the first action, and moves by 0.01 in each tick."""
    _, runner = act(tiny_bundle, [0.7, 0.1], 24, Safety(pose=lambda seen: [-0.05, -0.05]))
    assert runner.statistics.seam == pytest.approx(5.0, rel=1e-5)


def test_each_sequence_that_takes_over_within_decided_actions_counts_in_the_seam(tiny_bundle: Path) -> None:
    """Calls are expected to take 7 ticks, as the first ones did. So sequences follow each other after 4 ticks, and take
    over after 7."""
    _, runner = act(tiny_bundle, [7 / HERTZ] * 3 + [0.003], 60, execute=8)
    joins = np.flatnonzero(runner._record._joins)
    assert np.diff(joins).tolist()[-5:] == [4] * 5


def test_statistics_say_what_began_after_the_longest_wait_and_what_helps(tiny_bundle: Path) -> None:
    _, cold = act(tiny_bundle, [0.7, 0.1], 24)
    begins = "waits: 1; after the longest, of 21 ticks (waiting), the robot began with action 0 of a sequence that was "
    assert str(cold.statistics).splitlines()[5] == (
        begins + "observed 21 ticks before; call warm_up before an episode, since first calls are slow; "
        "Limits(change=...) with Safety(pose=...) bounds such a first action"
    )
    bounded = Safety(Limits(change=9.0), pose=lambda seen: [0.0, 0.0])
    _, runner = act(tiny_bundle, [0.1, 0.1, 1.2, 0.1], 76, bounded)
    runner.warm_up(SEEN)
    assert str(runner.statistics).splitlines()[5] == (
        "waits: 2; after the longest, of 13 ticks (held), the robot began with action 23 of a sequence that was "
        "observed 36 ticks before"
    )
    _, usual = act(tiny_bundle, [1 / HERTZ], 24)
    assert usual.statistics.longest_wait == Start(1, {"waiting": 1}, 0, 1, False, False)
    assert len(str(usual.statistics).splitlines()) == 5


def test_a_wait_that_a_limit_caused_is_called_so(tiny_bundle: Path) -> None:
    """Action 3 of a sequence is above the limit until the next sequence, of 8 actions, takes over."""
    calls = iter([9.0])

    def network(x: np.ndarray) -> np.ndarray:
        return np.broadcast_to(np.array([0, 1, 2, next(calls, 3.0), *range(4, 16)])[:, None] / 100, x.shape)

    limits = Limits(high=0.05, beyond="hold")
    sampler = tiny_policy(tiny_bundle, network, Policy(1, 0, 8))
    runner = PolicyRunner(sampler, Rhythm(RATE, "ddim:1"), Safety(limits), continuity="none", clock=VirtualClock())
    assert hundredths([runner.act(SEEN) for _ in range(10)]) == [0, 1, 2, 2, 2, 2, 2, 2, 0, 1]
    assert str(runner.statistics).splitlines()[5] == (
        "waits: 1; after the longest, of 5 ticks (held back by a limit), the robot began with action 0 of a "
        "sequence that was observed 0 ticks before; Action.problem names the limit"
    )


def test_a_wait_of_several_causes_names_each(tiny_bundle: Path) -> None:
    """The first call takes 3 ticks, and a limit then keeps the first action back for as long as its sequence lasts."""
    calls = iter([9.0])

    def network(x: np.ndarray) -> np.ndarray:
        clock.spend(3 / RATE)
        return np.broadcast_to(np.array([next(calls, 0.0), *range(1, 16)])[:, None] / 100, x.shape)

    clock = VirtualClock()
    limits = Limits(high=0.05, beyond="refuse")
    rhythm = Rhythm(RATE, "ddim:1", deadline=9.0)
    runner = PolicyRunner(tiny_policy(tiny_bundle, network), rhythm, Safety(limits), continuity="none", clock=clock)
    for _ in range(12):
        runner.act(SEEN)
        clock.advance(1 / RATE)
    line = str(runner.statistics).splitlines()[5]
    assert "(3 waiting, 4 held back by a limit)" in line and "Action.problem names the limit" in line
    assert "call warm_up" in line


def test_after_a_wait_the_advice_for_velocities_is_an_idle_action(tiny_bundle: Path) -> None:
    _, unknown = act(tiny_bundle, [0.7, 0.1], 24, control="velocity")
    assert (
        str(unknown.statistics)
        .splitlines()[5]
        .endswith("; Limits(change=...) with Safety(idle=...) bounds such a first action")
    )
    _, known = act(tiny_bundle, [0.7, 0.1], 24, Safety(Limits(change=9.0), idle=[0.0, 0.0]), control="velocity")
    assert str(known.statistics).splitlines()[5].endswith("since first calls are slow")


@pytest.mark.parametrize(("control", "place", "says"), [("velocity", 21, True), ("position", 0, False)])
def test_statistics_say_that_velocities_of_past_ticks_are_left_out(
    tiny_bundle: Path, control: Control, place: int, says: bool
) -> None:
    _, runner = act(tiny_bundle, [0.7, 0.1], 24, control=control)
    line = str(runner.statistics).splitlines()[5]
    assert f"the robot began with action {place} of a sequence" in line
    left_out = 'earlier actions were left out, since with control="velocity" they belong to their ticks'
    assert (left_out in line) == says


def test_one_slow_call_delays_no_later_sequence(tiny_bundle: Path) -> None:
    """The fourth call takes 0.7 s, and ends at tick 43. All others take 3 ms."""
    actions, _ = act(tiny_bundle, [0.003] * 3 + [0.7] + [0.003] * 40, 121, execute=8)
    assert [action.age for action in actions[43:]] == [21, *[1, 2, 3, 4, 5, 6, 7] * 11]


@pytest.mark.slow
def test_no_timeline_moves_the_robot_by_more_than_a_step(tiny_bundle: Path) -> None:
    assert jumps(tiny_bundle, range(FEW)) == {}


@pytest.mark.slow
@pytest.mark.parametrize("block", range(MANY // BLOCK))
def test_none_of_ten_thousand_timelines_moves_the_robot_by_more_than_a_step(tiny_bundle: Path, block: int) -> None:
    assert jumps(tiny_bundle, range(block * BLOCK, (block + 1) * BLOCK)) == {}
