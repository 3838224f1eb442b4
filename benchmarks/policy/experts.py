"""Experts that solve the tasks from the observation alone: three routes past the wall, and those of Meta-World.

A policy has to choose a route and keep to it: the mean of the three experts never passes the wall.
"""

import warnings
from collections.abc import Callable
from importlib import import_module
from typing import Any

import numpy as np
from numpy.typing import NDArray

Float64 = NDArray[np.float64]
Expert = Callable[[Float64], Float64]  # an observation [39] -> an action [4] in [-1, 1]

WALL = "pick-place-wall"
ROUTES = ("over", "left", "right")
BEHIND = 0.80  # y of the hand from which the wall is passed; the wall stands at 0.75
AT_WALL = 0.75
BESIDE = {"left": -0.13, "right": 0.33}  # x of the way past the wall, which reaches from -0.02 to 0.22
GAIN = 10.0  # of the controller: action per metre
CLASSES = {
    "push": "SawyerPushV3Policy",
    "peg-insert-side": "SawyerPegInsertionSideV3Policy",
    "assembly": "SawyerAssemblyV3Policy",
    "box-close": "SawyerBoxCloseV3Policy",
}


def expert_of(task: str, route: str | None = None) -> Expert:
    """The expert of a task; `route` is one of ROUTES for the wall, and None elsewhere."""
    if task == WALL:
        assert route is not None
        return lambda observation: past_the_wall(observation, route)
    policy = getattr(import_module("metaworld.policies"), CLASSES[task])()

    def expert(observation: Float64) -> Float64:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # it says that actions will be clipped, as they are below
            return np.clip(np.asarray(policy.get_action(observation), np.float64), -1.0, 1.0)

    return expert


def past_the_wall(observation: Float64, route: str) -> Float64:
    """Take the puck, carry it past the wall by the route, and set it down at the goal."""
    hand, gripper, puck, goal = observation[:3], observation[3], observation[4:7], observation[-3:]
    held = np.linalg.norm(hand - puck) < 0.07 and gripper < 0.8 and puck[2] > 0.03
    target, grip = _carry(hand, goal, route) if held else _take(hand, float(gripper), puck)
    return np.append(np.clip(GAIN * (target - hand), -1.0, 1.0), grip)


def _take(hand: Float64, gripper: float, puck: Float64) -> tuple[Float64, float]:
    """Where the hand goes to take the puck, and the gripper."""
    place = puck + [-0.005, 0.0, 0.0]
    if np.linalg.norm(hand[:2] - place[:2]) > 0.02:
        return place + [0.0, 0.0, 0.1], -1.0
    if abs(hand[2] - place[2]) > 0.05 and puck[2] < 0.04:
        return place + [0.0, 0.0, 0.03], -1.0
    return (hand, 1.0) if gripper > 0.73 else (hand + [0.0, 0.0, 0.1], 1.0)


def _carry(hand: Float64, goal: Float64, route: str) -> tuple[Float64, float]:
    """Where the hand goes with the puck, and the gripper."""
    if hand[1] > BEHIND:
        return goal, 1.0
    if route == "over":
        return np.array([goal[0], hand[1] if hand[2] < 0.21 else goal[1], 0.25]), 1.0
    x = BESIDE[route]
    return np.array([x, 0.66 if abs(hand[0] - x) >= 0.03 else 0.87, 0.12]), 1.0


def route_of(observations: NDArray[Any]) -> str | None:
    """The route that the puck took in observations [ticks, 39] of an episode; None if it never passed the wall."""
    crossed = np.flatnonzero(observations[:, 5] > AT_WALL)
    if not len(crossed):
        return None
    x, _, z = observations[crossed[0], 4:7]
    if z > 0.17:
        return "over"
    return "left" if x < 0.1 else "right"
