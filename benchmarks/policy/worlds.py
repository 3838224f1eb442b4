"""What the rollouts know of a simulator: its tasks, what solves them, and what a policy is told."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

Float64 = NDArray[np.float64]
Observation = dict[str, Float64]  # by the name of the policy's condition
Pictures = dict[str, NDArray[np.uint8]]  # [3, height, width] by the name of the policy's condition
Expert = Callable[[Observation], Float64]  # an observation -> an action in [-1, 1]


class Simulation(Protocol):
    """One task. Its state is a function of the seed and the actions since `reset`, whatever ran before."""

    def reset(self, seed: int) -> Observation: ...

    def step(self, action: Float64) -> tuple[Observation, bool]:
        """The next observation, and whether the task is solved there."""
        ...

    def draw(self) -> Pictures:
        """What the cameras of the latest observation show."""
        ...

    def knock(self, shift: Float64) -> None:
        """Move the object by `shift` [2] metres; the next observation shows it."""
        ...


@dataclass(frozen=True)
class World:
    """The tasks of a simulator.

    rate: ticks a second.
    longest: ticks of an episode.
    motions: the number of elements of an action, from the first on, that move the hand. The others move its fingers.
    simulate: a task -> its simulation.
    expert: a task, the seed of the episode, and whether a rescuer is wanted -> what solves it.
    constants: a task -> the conditions that no tick observes.
    route: a task and the observations of an episode -> the route that was taken, if the task has several.
    """

    tasks: tuple[str, ...]
    rate: float
    longest: int
    motions: int
    simulate: Callable[[str], Simulation]
    expert: Callable[[str, int, bool], Expert]
    constants: Callable[[str], dict[str, NDArray[np.float32]]]
    route: Callable[[str, Sequence[Observation]], str | None]
