"""Fetch's experts without their simulator, and the contenders and table of LeRobot's policies."""

from pathlib import Path

import numpy as np
import pytest

from benchmarks.policy import lerobot_success
from benchmarks.policy.blocks import in_whole_blocks
from benchmarks.policy.fetch import pick_and_place, push
from benchmarks.policy.lerobot_calls import Calls
from benchmarks.policy.verdicts import Verdict
from benchmarks.policy.worlds import Observation

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


def test_a_policy_that_predicts_noise_has_no_fitted_plans() -> None:
    plans = [contender.plan for contender in lerobot_success.contenders("w", ())]
    assert plans == [None, "scheduler:10", "dpmpp_2m:2", "dpmpp_2m:1", "scheduler:10", "dpmpp_2m:2", "dpmpp_2m:1"]


def test_the_table_compares_each_contender_with_float32_in_ten_steps(tmp_path: Path) -> None:
    rivals = lerobot_success.contenders("w", ())[1:3]
    known = {
        contender.digest: {
            ("push", seed): Verdict("push", seed, 30 if seed < won else None, worst_jerk=0.5) for seed in range(4)
        }
        for contender, won in zip(rivals, (3, 1), strict=True)
    }
    made = lerobot_success.write(tmp_path, "push", rivals, known, {rivals[0].name: Calls(12.0, 20.0, 150.0)})
    first, second = (line.split(" | ") for line in made.splitlines()[2:])
    assert first[1:3] == ["4", "75.0"] and first[-3:] == ["12.00", "20.00", "150 |"]
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
