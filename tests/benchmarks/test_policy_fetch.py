"""Fetch's experts without their simulator, and the contenders and table of LeRobot's policies."""

from pathlib import Path
from typing import cast

import numpy as np
import pytest
from numpy.typing import NDArray

from benchmarks.policy import fetch_demonstrations, lerobot_spread, lerobot_success
from benchmarks.policy.blocks import in_whole_blocks
from benchmarks.policy.fetch import FETCH, GOAL, STATE, Fetch, features_of, pick_and_place, push, reach
from benchmarks.policy.lerobot_calls import Calls
from benchmarks.policy.rollouts import GREY, Course
from benchmarks.policy.verdicts import Verdict
from benchmarks.policy.worlds import Observation, Pictures

FAST = 10.0  # gain of an expert


def observe(hand: list[float], thing: list[float], goal: list[float], fingers: float = 0.05) -> Observation:
    """An observation of a hand at rest, with each finger at half of the width `fingers`."""
    away = np.subtract(thing, hand)
    return {
        "observation.state": np.r_[hand, fingers / 2, fingers / 2, np.zeros(5)],
        "observation.environment_state": np.r_[thing, away, np.zeros(3), goal],
    }


@pytest.mark.parametrize(
    ("hand", "fingers", "motion", "grip"),
    [
        ([0.2, 0.0, 0.10], 0.10, [-1.0, 0.0, 0.0], 1.0),  # aside: to a place 0.1 above the object
        ([0.0, 0.0, 0.10], 0.10, [0.0, 0.0, -1.0], 1.0),  # above: down, with open fingers
        ([0.0, 0.0, 0.00], 0.10, [0.0, 0.0, 0.0], -1.0),  # there: closes them
        ([0.0, 0.0, 0.00], 0.05, [0.5, 0.0, 1.0], -1.0),  # holds it: to the goal
    ],
)
def test_the_object_is_taken_from_above_and_carried(
    hand: list[float], fingers: float, motion: list[float], grip: float
) -> None:
    action = pick_and_place(observe(hand, [0.0, 0.0, 0.0], [0.05, 0.0, 0.2], fingers), FAST, 0.1)
    np.testing.assert_allclose(action, [*motion, grip], atol=1e-12)


@pytest.mark.parametrize(
    ("hand", "motion"),
    [
        ([0.06, 0.0, 0.0], [0.0, 0.0, 1.0]),  # on the goal's side: up first
        ([0.06, 0.0, 0.1], [-1.0, 0.0, 0.0]),  # then behind the object, 0.1 above it
        ([-0.075, 0.0, 0.1], [0.0, 0.0, -1.0]),  # behind: down
        ([-0.075, 0.0, 0.0], [0.5, 0.0, 0.0]),  # and to the goal
    ],
)
def test_the_object_is_pushed_from_behind(hand: list[float], motion: list[float]) -> None:
    action = push(observe(hand, [0.0, 0.0, 0.0], [0.2, 0.0, 0.0]), FAST, 0.1)
    np.testing.assert_allclose(action, [*motion, -1.0], atol=1e-12)


def test_the_hand_reaches_for_the_goal() -> None:
    action = reach({STATE: np.zeros(10), GOAL: np.array([0.05, -0.2, 0.0])}, FAST)
    np.testing.assert_allclose(action, [0.5, -1.0, 0.0, -1.0], atol=1e-12)


class Reached:
    """A stand-in for `fetch-reach` whose goal the hand reaches at the third tick."""

    task = "fetch-reach"

    def __init__(self) -> None:
        self.ticks = 0

    def reset(self, seed: int) -> Observation:
        return {STATE: np.zeros(10), GOAL: np.ones(3)}

    def step(self, action: NDArray[np.float64]) -> tuple[Observation, bool]:
        self.ticks += 1
        return self.reset(0), self.ticks >= 3

    def draw(self) -> Pictures:
        return {name: np.zeros(shape, np.uint8) for name, shape in features_of(self.task).items() if len(shape) == 3}


def test_no_goal_is_among_what_a_policy_learns_from() -> None:
    frames = fetch_demonstrations.demonstrate(cast(Fetch, Reached()), seed=1)
    assert frames is not None and all(frame.keys() == {*features_of("fetch-reach"), "action"} for frame in frames)


def test_a_demonstration_goes_on_for_a_number_of_ticks() -> None:
    lengths = [len(fetch_demonstrations.demonstrate(cast(Fetch, Reached()), 1, after) or ()) for after in (0, 4)]
    assert lengths == [3, 7]


class Seen:
    """What a runner observes."""

    def observe(self, observation: dict[str, NDArray[np.uint8]]) -> None:
        self.observation = observation


@pytest.mark.parametrize(("blind", "value"), [(False, 0), (True, GREY)])
def test_the_pictures_of_a_blind_policy_are_grey(blind: bool, value: int) -> None:
    simulation, runner = Reached(), Seen()
    course = Course(
        FETCH,
        ("fetch-reach", 0),
        simulation,  # type: ignore[arg-type]
        simulation.reset(0),
        runner,  # type: ignore[arg-type]
        expert=None,
        knock=(-1, np.zeros(2)),
        blind=blind,
    )
    course.watch()
    pictures = [runner.observation[name] for name in simulation.draw()]
    assert [(picture.dtype, int(picture.min()), int(picture.max())) for picture in pictures] == [
        (np.uint8, value, value)
    ] * 2


def test_a_policy_that_predicts_noise_has_four_steps_and_no_fitted_plans() -> None:
    plans = [contender.plan for contender in lerobot_success.contenders("w", "fetch-push", predicts_noise=True)]
    few = ["scheduler:10", "dpmpp_2m:4", "dpmpp_2m:2", "dpmpp_2m:1"]
    assert plans == [None, *few, *few]


def test_a_policy_with_cameras_is_also_tried_without_its_sight() -> None:
    rivals = lerobot_success.contenders("w", "fetch-reach", predicts_noise=False)
    assert [rival.name for rival in rivals if rival.blind] == [lerobot_success.BLIND]
    assert len({rival.digest for rival in rivals}) == len(rivals)


def test_the_table_compares_each_contender_with_float32_in_ten_steps(tmp_path: Path) -> None:
    rivals = lerobot_success.contenders("w", "fetch-push", predicts_noise=True)[1:3]
    known = {
        contender.digest: {
            ("push", seed): Verdict("push", seed, 30 if seed < won else None, worst_jerk=0.5) for seed in range(4)
        }
        for contender, won in zip(rivals, (3, 1), strict=True)
    }
    made = lerobot_success.write(tmp_path, "push", rivals, known, {rivals[0].name: Calls(12.0, 20.0, 150.0, 180.0)})
    first, second = (line.split(" | ") for line in made.splitlines()[2:])
    assert first[1:3] == ["4", "75.0"] and first[-4:] == ["12.00", "20.00", "150", "180 |"]
    assert second[2] == "25.0" and second[4] == "0, 2" and second[5].startswith("-50.0 (")


def test_verdicts_of_other_tasks_do_not_count() -> None:
    known = {(task, 0): Verdict(task, 0, 30) for task in ("push", "fetch-push")}
    assert in_whole_blocks(known, ("fetch-push",)).keys() == {("fetch-push", 0)}


def test_ticks_are_compared_where_both_solve() -> None:
    mine, other = (
        {("push", seed): Verdict("push", seed, solved) for seed, solved in enumerate(ticks)}
        for ticks in ((30, 33, None, 40), (31, 30, 20, None))
    )
    assert lerobot_success._ticks(mine, other) == "33 (+1.0 ± 3.9)"  # of -1 and 3: 1.96 * 8 ** 0.5 / 2 ** 0.5
    assert lerobot_success._ticks(mine, None) == "33"


def test_whole_blocks_count_wherever_they_are() -> None:
    known = {("push", seed): Verdict("push", seed, 30) for seed in (*range(25), *range(60, 80), 90)}
    seeds = sorted(seed for _, seed in in_whole_blocks(known, ("push",)))
    assert seeds == [*range(20), *range(60, 80)]


def test_a_mean_that_no_noise_moves_has_no_spread_and_no_distance() -> None:
    either = np.repeat(np.array([[[[-1.0]], [[1.0]]]], np.float32), 3, 2)  # [1, 2 seeds, 3 actions, 1]
    assert lerobot_spread.figures(either, either) == (1.0, 0.0, 1.0)
    assert lerobot_spread.figures(np.zeros_like(either), either) == (0.0, 0.0, 0.0)
    assert lerobot_spread.figures(np.full_like(either, 0.5), either) == (0.0, 0.5, 0.5)


def test_a_fit_that_was_not_stored_has_no_row(tiny_bundle: Path) -> None:
    rivals = lerobot_success.contenders("w", "fetch-reach", predicts_noise=False)
    plans = [each.plan for each in lerobot_success.with_plans(rivals, tiny_bundle)]
    assert plans == [rival.plan for rival in rivals if rival.plan is None or not rival.plan.startswith("fitted")]
