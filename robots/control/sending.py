"""What a control loop sends to the robot: an action of the sequence within the limits, or the idle action."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike

from fewstep.plans.errors import first_line
from fewstep.robots.control.arguments import check_idle, check_pose
from fewstep.robots.control.chunk import Float32
from fewstep.robots.control.limits import ActionBounds
from fewstep.robots.control.motion import Motion
from fewstep.robots.control.safety import Safety
from fewstep.runtime.arrays import UnusableValue


@dataclass(frozen=True)
class Sending:
    """An action to send.

    value: the action; None if nothing is sent. limited: the limit that changed it. base: the action or pose from which
    its change was limited. executes: whether it counts as the next action of its sequence.
    """

    value: Float32 | None
    limited: str | None
    base: Float32 | None
    executes: bool


@dataclass
class Sender:
    """Decides what is sent, and knows the last action over all episodes.

    idle: the action while there is no sequence; None sends nothing.
    pose_of: as in `Safety.pose`.
    last: the last action that was sent. A robot is assumed to begin at its idle action.
    """

    bounds: ActionBounds
    idle: Float32 | None
    pose_of: Callable[[Mapping[str, ArrayLike]], ArrayLike | None] | None
    last: Float32 | None

    def measure_pose(self, observation: Mapping[str, ArrayLike], motion: Motion) -> None:
        """Record the pose that an observation shows. Raises UserError for a wrong shape or type, and UnusableValue if
        the user's function fails."""
        if self.pose_of is None:
            return
        try:
            pose = self.pose_of(observation)
        except Exception as error:  # of a sensor's value, at a tick of a moving robot
            what = f"Safety.pose raises {type(error).__name__}: {first_line(error)}"
            raise UnusableValue(what, "return the measured value of each element of an action, or None") from error
        motion.pose = check_pose(pose, self.bounds.low.shape)

    def idle_moves(self, motion: Motion) -> bool:
        """Return whether the idle action moves the robot: it is neither the measured pose nor the last action. Idle
        velocities belong to their tick, and do not count."""
        if self.idle is None or motion.every_tick:
            return False
        return not any(known is not None and np.array_equal(known, self.idle) for known in (self.last, motion.pose))

    def send_idle(self, motion: Motion) -> Float32 | None:
        """Return the idle action, and record that it is sent."""
        if self.idle is not None:
            motion.sent = self.last = self.idle
        return self.idle

    def send(self, action: Float32, motion: Motion, is_held: bool) -> Sending:
        """Return the sequence's action within the limits, and record that it is sent."""
        base = motion.base(is_held)
        value, limited = self.bounds.clip_action(action, base, motion.sent)
        executes = value is not None and not is_held and (limited is None or self.bounds.beyond == "clip")
        if value is not None:
            motion.sent = self.last = value
        return Sending(value, limited, base, executes)


def make_sender(safety: Safety, shape: tuple[int, ...], rate: float) -> Sender:
    """Return the sender of a robot whose actions have this shape. Raises UserError for unusable limits or idle."""
    idle = None if safety.idle is None else check_idle(safety.idle, shape)
    return Sender(safety.limits.make_bounds(shape, rate, idle), idle, safety.pose, idle)
