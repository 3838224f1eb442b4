"""A sequence of actions in time."""

from collections.abc import Collection
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Float32 = NDArray[np.float32]


@dataclass(frozen=True)
class Chunk:
    """Actions [n, ...] in the robot's units. They are executed in order, and `progress` counts those that a robot has
    executed, in any sequence (`Motion`).

    origin: the progress at the observation. The first action is executed at this progress.

    After the last action, the last one is repeated. Zeros would be a different pose of the robot, and cause a jerk.
    """

    actions: Float32
    origin: int

    @property
    def end(self) -> int:
        """The progress after the last action."""
        return self.origin + len(self.actions)

    def action_at(self, progress: int) -> Float32:
        """Return the action that is executed at this progress, the origin or more."""
        action: Float32 = self.actions[min(max(progress - self.origin, 0), len(self.actions) - 1)]
        return action

    def actions_from(self, progress: int) -> Float32:
        """Return the actions [k, ...] from this progress on, at least one."""
        return self.actions[min(max(progress - self.origin, 0), len(self.actions) - 1) :]


def crossfade(new: Chunk, former: Chunk, progress: int, count: int, discrete: Collection[int] = ()) -> Chunk:
    """Return the new sequence, faded in from the previous sequence over `count` actions from `progress` on.

    Actions change linearly from the previous values to the new ones. Discrete elements change at once.
    """
    start = max(progress - new.origin, 0)
    end = min(start + count, len(new.actions))
    if start >= end:
        return new
    actions = new.actions.copy()
    before = np.array([former.action_at(new.origin + place) for place in range(start, end)])
    share = (np.arange(1, end - start + 1, dtype=np.float32) / (count + 1)).reshape(-1, *[1] * (actions.ndim - 1))
    actions[start:end] = share * actions[start:end] + (1 - share) * before
    for place in discrete:
        actions[..., place] = new.actions[..., place]
    return Chunk(actions, new.origin)


def pad_actions(actions: Float32, count: int) -> Float32:
    """Return the first `count` actions [count, ...]. If there are fewer, the last one is repeated."""
    missing = count - len(actions)
    return actions[:count] if missing <= 0 else np.concatenate([actions, np.repeat(actions[-1:], missing, axis=0)])
