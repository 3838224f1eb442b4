"""Experts that solve the tasks from the observation alone: three routes past the wall, and those of Meta-World.

A policy has to choose a route and keep to it: the mean of the three experts never passes the wall.
"""

import warnings
from collections.abc import Callable, Sequence
from importlib import import_module
from typing import Any

import numpy as np
from numpy.typing import NDArray

from benchmarks.policy.simulator import LONGEST, RATE, TASKS, Simulation
from benchmarks.policy.worlds import Float64, Observation, World

Expert = Callable[[Float64], Float64]  # an observation [39] -> an action [4] in [-1, 1]

WALL = "pick-place-wall"
ROUTES = ("over", "left", "right")
BEHIND = 0.80  # y of the hand from which the wall is passed; the wall stands at 0.75
AT_WALL = 0.75
BESIDE = {"left": -0.13, "right": 0.33}  # x of the way past the wall, which reaches from -0.02 to 0.22
GAIN, FAST = 10.0, 25.0  # of the controllers: action per metre
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


def rescuer_of(task: str) -> Expert:
    """Return an expert of a task without routes that also recovers from a policy's mistakes. Those of Meta-World
    press closed fingers on the puck, and on the lid, until something slips.
    """
    if task == "box-close":
        return close_the_box
    expert = expert_of(task)
    return expert if task != "push" else lambda observation: _reopen(observation, expert(observation))


def close_the_box(observation: Float64) -> Float64:
    """Come down on the lid with open fingers, and close them there."""
    hand, gripper, lid = observation[:3], observation[3], observation[4:7] + [0.0, 0.0, 0.02]
    above_box = np.array([*observation[-3:-1], 0.15])
    aside, height = np.linalg.norm(hand[:2] - lid[:2]), abs(hand[2] - lid[2])
    if aside > (0.01 if height > 0.05 else 0.025):
        target, grip = np.array([*lid[:2], 0.2]), -1.0
    elif height > 0.05 or gripper > 0.5:
        target, grip = lid, -1.0 if height > 0.05 else 1.0
    elif abs(hand[2] - above_box[2]) > 0.04 and np.linalg.norm(hand[:2] - above_box[:2]) > 0.02:
        target, grip = np.array([*hand[:2], above_box[2]]), 1.0
    else:
        target, grip = above_box, 1.0
    return np.append(np.clip(FAST * (target - hand), -1.0, 1.0), grip)


def _reopen(observation: Float64, action: Float64) -> Float64:
    """Return the action of Meta-World's expert of push, or one that rises and opens the fingers if they are closed
    above the puck.
    """
    hand, gripper, puck = observation[:3], observation[3], observation[4:7]
    height = hand[2] - puck[2]
    if np.linalg.norm(hand[:2] - puck[:2]) > 0.05 or height < 0.042:
        return action
    if gripper >= np.interp(height, [0.04, 0.10], [0.55, 0.95]):  # as open as on an expert's way down
        return action
    return np.append(np.clip(GAIN * (puck + [-0.005, 0.0, 0.2] - hand), -1.0, 1.0), -1.0)


def past_the_wall(observation: Float64, route: str) -> Float64:
    """Take the puck, carry it past the wall by the route, and set it down at the goal."""
    hand, gripper, puck, goal = observation[:3], observation[3], observation[4:7], observation[-3:]
    held = np.linalg.norm(hand - puck) < 0.07 and gripper < 0.8 and puck[2] > 0.03
    target, grip = _carry(hand, goal, route) if held else _take(hand, float(gripper), puck)
    return np.append(np.clip(GAIN * (target - hand), -1.0, 1.0), grip)


def _take(hand: Float64, gripper: float, puck: Float64) -> tuple[Float64, float]:
    """The place where the hand goes to take the puck, and the gripper."""
    place = puck + [-0.005, 0.0, 0.0]
    if np.linalg.norm(hand[:2] - place[:2]) > 0.02:
        return place + [0.0, 0.0, 0.1], -1.0
    if abs(hand[2] - place[2]) > 0.05 and puck[2] < 0.04:
        return place + [0.0, 0.0, 0.03], -1.0
    return (hand, 1.0) if gripper > 0.73 else (hand + [0.0, 0.0, 0.1], 1.0)


def _carry(hand: Float64, goal: Float64, route: str) -> tuple[Float64, float]:
    """The place where the hand goes with the puck, and the gripper."""
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


def _expert_of_episode(task: str, seed: int, rescuer: bool) -> Callable[[Observation], Float64]:
    """Return who solves an episode: past the wall by a route that is drawn from the seed."""
    route = ROUTES[int(np.random.default_rng([seed, 3]).integers(len(ROUTES)))] if task == WALL else None
    solve = rescuer_of(task) if rescuer and task != WALL else expert_of(task, route)
    return lambda observation: solve(observation["observation"])


def _route_of_episode(task: str, seen: Sequence[Observation]) -> str | None:
    return route_of(np.array([each["observation"] for each in seen])) if task == WALL else None


def one_hot(task: str) -> NDArray[np.float32]:
    """Return the one-hot condition of a task."""
    return np.eye(len(TASKS), dtype=np.float32)[TASKS.index(task)]


METAWORLD = World(
    TASKS,
    RATE,
    LONGEST,
    motions=3,
    simulate=Simulation,
    expert=_expert_of_episode,
    constants=lambda task: {"task": one_hot(task)},
    route=_route_of_episode,
)
