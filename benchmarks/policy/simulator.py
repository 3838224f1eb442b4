"""Five manipulation tasks of Meta-World (McLean et al. 2025, arXiv 2505.11289), seeded and fully observed, at 80 Hz.

task = Simulation("pick-place-wall")
observation = task.reset(seed=7)["observation"]  # [39]: hand, gripper and objects, now and a tick ago; the goal
observation, success = task.step(action)     # [4] in [-1, 1]: motion of the hand in x, y, z, and the gripper
"""

from importlib import import_module
from typing import Any

import numpy as np
from numpy.typing import NDArray

Float64 = NDArray[np.float64]

TASKS = ("pick-place-wall", "push", "peg-insert-side", "assembly", "box-close")
KNOCKED = ("pick-place-wall", "push")  # tasks in which a puck lies free
RATE = 80.0  # ticks a second: five physics steps of 2.5 ms each
OBSERVED, ACTIONS = 39, 4
LONGEST = 500  # ticks of an episode
PUCK = slice(9, 11)  # x and y of the object among the positions of all joints
REACH = 0.05  # metres that a knock moves the puck by, at most, along x and along y
KNOCK_TICKS = (10, 30)  # when a knock comes, the last excluded


class Simulation:
    """One task. Its state is a function of the seed and the actions since `reset`, whatever ran before."""

    def __init__(self, task: str) -> None:
        environments = import_module("metaworld").env_dict.ALL_V3_ENVIRONMENTS
        self.task = task
        self._environment: Any = environments[f"{task}-v3"]()
        self._environment._partially_observable = False  # the goal is seen
        self._environment.__dict__.pop("sawyer_observation_space", None)  # cached while the goal was hidden
        self._environment._freeze_rand_vec = False
        self._environment.seeded_rand_vec = True
        self._environment._set_task_called = True

    def reset(self, seed: int) -> dict[str, Float64]:
        """Place the object and the goal for a seed, and return the first observation."""
        self._environment.seed(seed)
        observation, _ = self._environment.reset()
        return {"observation": np.asarray(observation, np.float64)}

    def step(self, action: Float64) -> tuple[dict[str, Float64], bool]:
        """The next observation, and whether the task is solved there."""
        observation, _, _, _, facts = self._environment.step(np.clip(action, -1.0, 1.0).astype(np.float32))
        return {"observation": np.asarray(observation, np.float64)}, bool(facts["success"])

    def draw(self) -> dict[str, NDArray[np.uint8]]:
        """No pictures: the tasks are observed in numbers."""
        return {}

    def knock(self, shift: NDArray[np.float64]) -> None:
        """Move the puck by `shift` [2] metres; the next observation shows it."""
        positions, speeds = self._environment.data.qpos.copy(), self._environment.data.qvel.copy()
        positions[PUCK] += shift
        self._environment.set_state(positions, speeds)


def draw_knock(generator: np.random.Generator) -> tuple[int, Float64]:
    """The tick of a knock, and the shift [2] of the puck in metres."""
    return int(generator.integers(*KNOCK_TICKS)), generator.uniform(-REACH, REACH, 2)
