"""Three tasks of gymnasium-robotics' Fetch (Plappert et al. 2018, arXiv 1802.09464), and experts that solve them.

task = Fetch("fetch-pick-and-place")
observation = task.reset(seed=7)             # a dictionary: the robot [10], and the object with its goal [12]
observation, success = task.step(action)     # [4] in [-1, 1]: motion of the gripper in x, y, z, and its fingers

A task is solved once the object has been at its goal for `HELD` ticks, so that one that slides past does not count. In
`fetch-reach` the hand has to be there. A policy sees that goal in the pictures of two cameras only.
"""

import os
from importlib import import_module
from typing import Any

import numpy as np

from benchmarks.policy.cameras import AZIMUTHS, SIZE, Cameras
from benchmarks.policy.worlds import Expert, Float64, Observation, Pictures, World

ENVIRONMENTS = {
    "fetch-pick-and-place": ("pick_and_place", "MujocoFetchPickAndPlaceEnv"),
    "fetch-push": ("push", "MujocoFetchPushEnv"),
    "fetch-reach": ("reach", "MujocoFetchReachEnv"),
}
REACH = "fetch-reach"
TASKS = tuple(ENVIRONMENTS)
RATE = 25.0  # ticks a second: 20 physics steps of 2 ms each
ROBOT, OBJECT, ACTIONS = 10, 12, 4
LONGEST = 100  # ticks of an episode, twice the environment's, since the object has to stay
HELD = 10  # ticks
OPEN = 0.085  # metres between the fingers
OBJECT_JOINT = "object0:joint"
GOAL = "goal"  # of `fetch-reach`: what the expert knows, and no policy
STATE, THING = "observation.state", "observation.environment_state"


class Fetch:
    """One task. Its state is a function of the seed and the actions since `reset`, whatever ran before."""

    def __init__(self, task: str) -> None:
        module, name = ENVIRONMENTS[task]
        if task == REACH:
            os.environ.setdefault("MUJOCO_GL", "egl")  # draws without a display
        self.task = task
        self._environment: Any = getattr(import_module(f"gymnasium_robotics.envs.fetch.{module}"), name)()
        self._cameras = Cameras(self._environment) if task == REACH else None
        self._held = 0

    def reset(self, seed: int) -> Observation:
        """Place the object and the goal for a seed, not yet solved, and return the first observation."""
        self._held = 0
        observation, _ = self._environment.reset(seed=seed)
        while self._distance(observation) < self._environment.distance_threshold:
            observation, _ = self._environment.reset()
        return _observe(self.task, observation)

    def step(self, action: Float64) -> tuple[Observation, bool]:
        """The next observation, and whether the task is solved there."""
        observation, _, _, _, facts = self._environment.step(np.clip(action, -1.0, 1.0).astype(np.float32))
        self._held = self._held + 1 if facts["is_success"] else 0
        return _observe(self.task, observation), self._held >= HELD

    def draw(self) -> Pictures:
        """Return the pictures of the cameras, if the task has any."""
        return {} if self._cameras is None else self._cameras.draw()

    def knock(self, shift: Float64) -> None:
        """Move the object by `shift` [2] metres; the next observation shows it."""
        model, data, utilities = self._environment.model, self._environment.data, self._environment._utils
        place = utilities.get_joint_qpos(model, data, OBJECT_JOINT).copy()
        place[:2] += shift
        utilities.set_joint_qpos(model, data, OBJECT_JOINT, place)

    @staticmethod
    def _distance(observation: dict[str, Float64]) -> float:
        return float(np.linalg.norm(observation["achieved_goal"] - observation["desired_goal"]))


def features_of(task: str) -> dict[str, tuple[int, ...]]:
    """Return the shapes of what a policy of a task observes, by name."""
    if task == REACH:
        return {STATE: (ROBOT,), **dict.fromkeys(AZIMUTHS, (3, SIZE, SIZE))}
    return {STATE: (ROBOT,), THING: (OBJECT,)}


def _observe(task: str, observation: dict[str, Float64]) -> Observation:
    """The robot: gripper, fingers, and their velocities. The object: place, place from the gripper, turn, and goal."""
    numbers = observation["observation"]
    if task == REACH:  # it has no object
        return {STATE: numbers, GOAL: observation["desired_goal"]}
    robot = np.concatenate([numbers[0:3], numbers[9:11], numbers[20:25]])
    thing = np.concatenate([numbers[3:9], numbers[11:14], observation["desired_goal"]])
    return {STATE: robot, THING: thing}


def expert_of(task: str, seed: int, rescuer: bool = False) -> Expert:
    """Return who solves an episode, also as a rescuer. How fast it is, and how high it goes above the object, are drawn
    from the seed.
    """
    generator = np.random.default_rng([seed, 1])
    gain, height = generator.uniform(5.0, 12.0), generator.uniform(0.05, 0.12)
    if task == REACH:
        return lambda observation: reach(observation, gain)
    solve = push if task == "fetch-push" else pick_and_place
    return lambda observation: solve(observation, gain, height)


def pick_and_place(observation: Observation, gain: float, height: float) -> Float64:
    """Take the object from above, and carry it to the goal."""
    robot, thing = observation[STATE], observation[THING]
    fingers, away, goal = robot[3] + robot[4], thing[3:6], thing[9:12]  # from the hand to the object
    aside = np.linalg.norm(away[:2])
    if aside < 0.02 and abs(away[2]) < 0.015 and fingers < 0.062:  # it holds the object
        return _move(goal - thing[:3], -1.0, gain)
    if aside > 0.02 or (away[2] < -0.02 and fingers < OPEN):
        return _move(away + [0.0, 0.0, height], 1.0, gain)
    if abs(away[2]) > 0.012:
        return _move(away, 1.0, gain)
    return _move(away, -1.0, gain)


def reach(observation: Observation, gain: float) -> Float64:
    """Move the hand to the goal."""
    return _move(observation[GOAL] - observation[STATE][:3], -1.0, gain)


def push(observation: Observation, gain: float, height: float) -> Float64:
    """Go behind the object, as seen from the goal, and push it there with closed fingers."""
    hand, thing = observation[STATE][:3], observation[THING]
    place, way = thing[:3], thing[9:11] - thing[:2]
    left = float(np.linalg.norm(way))
    if left < 0.01:
        return _move(np.zeros(3), -1.0, gain)
    along = way / left
    from_object = hand[:2] - place[:2]
    across = from_object - (from_object @ along) * along
    if from_object @ along < -0.03 and np.linalg.norm(across) < 0.015 and hand[2] < place[2] + 0.03:
        return _move(np.append(min(left, 0.05) * along - across, place[2] - hand[2]), -1.0, gain)
    to_behind = place[:2] - 0.075 * along - hand[:2]
    if np.linalg.norm(to_behind) < 0.015:
        return _move(np.append(to_behind, place[2] - hand[2]), -1.0, gain)
    if hand[2] < place[2] + 0.045:  # up, so that it does not move the object
        return _move(np.array([0.0, 0.0, height + 0.02]), -1.0, gain)
    return _move(np.append(to_behind, place[2] + 0.05 + height / 2 - hand[2]), -1.0, gain)


def _move(shift: Float64, fingers: float, gain: float) -> Float64:
    """The action that moves the gripper by a share of `shift` [3] metres."""
    return np.append(np.clip(gain * shift, -1.0, 1.0), fingers)


FETCH = World(
    TASKS,
    RATE,
    LONGEST,
    motions=3,
    simulate=Fetch,
    expert=expert_of,
    constants=lambda task: {},
    route=lambda task, seen: None,
)
