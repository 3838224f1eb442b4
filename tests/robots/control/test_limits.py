"""The actions of a runner if an action is beyond a limit, and if no new sequence comes."""

from pathlib import Path

import numpy as np
import pytest

from fewstep.robots.control import Action, Limits
from fewstep.robots.control.limits import Beyond
from fewstep.runtime.kinds.policies import Control
from tests.robots.control.looping_runner import RATE, act, acts, looping
from tests.robots.control.tiny_policy import BAD, EXECUTED, HORIZON


@pytest.mark.parametrize(
    ("beyond", "sent"), [("clip", [0, 1, 2, 2]), ("hold", [0, 1, 2, 2]), ("refuse", [0, 1, 2, None])]
)
def test_an_action_above_its_limit(tiny_bundle: Path, beyond: Beyond, sent: list[int | None]) -> None:
    runner, _, clock = looping(tiny_bundle, limits=Limits(high=[0.02, 9.0], beyond=beyond))
    actions = acts(runner, clock, EXECUTED)
    assert [None if action.value is None else round(100 * float(action.value[0])) for action in actions] == sent
    assert actions[2].problem is None
    assert actions[3].problem == "element 0 of the action is 0.03, and its limit is 0.02"
    assert runner.statistics.limited == 1


def test_an_action_changes_no_faster_than_its_limit_from_the_idle_one_on(tiny_bundle: Path) -> None:
    runner, _, clock = looping(tiny_bundle, limits=Limits(change=[0.005 * RATE, np.inf]), idle=[-0.01, 0.0])
    actions = acts(runner, clock, EXECUTED)
    np.testing.assert_allclose([action.value[0] for action in actions], [-0.005, 0.0, 0.005, 0.01], atol=1e-7)
    assert runner.statistics.limited == 4
    runner.reset()  # an episode begins at the idle action
    assert act(runner, clock).value[0] == pytest.approx(-0.005)


@pytest.mark.parametrize("idle", [None, [0.0, 0.0]])
def test_a_runner_stops_where_no_sequence_comes_and_goes_on_with_the_next(
    tiny_bundle: Path, idle: list[float] | None
) -> None:
    stops = list[Action]()
    runner, _, clock = looping(tiny_bundle, most_held=3, idle=idle, stopped=stops.append)
    act(runner, clock)
    blind = acts(runner, clock, HORIZON + 5, BAD)
    assert [each.source for each in blind[HORIZON - 1 :]] == ["held"] * 3 + ["stopped"] * 3
    assert stops == [blind[HORIZON + 2]] and all("finite float32" in (stop.problem or "") for stop in stops)
    if idle is None:
        assert blind[-1].value is None
    else:
        assert blind[-1].value.tolist() == idle
    assert act(runner, clock).source == "planned"
    assert (runner.statistics.held, runner.statistics.stopped) == (3, 3)


@pytest.mark.parametrize("control", ["position", "velocity"])
def test_the_sequence_after_a_stop_takes_nothing_from_before_it(tiny_bundle: Path, control: Control) -> None:
    runner, _, clock = looping(tiny_bundle, plans=("ddim:1",), most_held=3, idle=[0.0, 0.0], fade=3, control=control)
    first = act(runner, clock)
    acts(runner, clock, HORIZON + 5, BAD)
    assert act(runner, clock).value[0] == first.value[0]  # without a fade from the last action before the stop
