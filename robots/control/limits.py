"""Limits of the actions that a runner sends, and of their rate of change."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, get_args

import numpy as np
from numpy.typing import ArrayLike

from fewstep.plans.errors import UserError
from fewstep.robots.control.chunk import Float32
from fewstep.runtime.arrays import as_numbers, broadcast_to_samples

Beyond = Literal["clip", "hold", "refuse"]


@dataclass(frozen=True)
class ActionBounds:
    """Checked limits for actions of one shape. `step` is the largest change per tick."""

    low: Float32
    high: Float32
    step: Float32
    beyond: Beyond

    @property
    def limits_change(self) -> bool:
        return bool(np.isfinite(self.step).any())

    def clip_action(
        self, action: Float32, before: Float32 | None, sent: Float32 | None
    ) -> tuple[Float32 | None, str | None]:
        """Return an action within the limits, and the limit that changed it. Either may be None.

        before: the value from which the change is limited. sent: the last action that was sent.
        """
        allowed = np.clip(action, self.low, self.high)
        if before is not None:
            allowed = np.clip(allowed, before - self.step, before + self.step)
        beyond = np.argwhere(allowed != action)
        if not len(beyond):
            return action, None
        place = tuple(beyond[0])
        value, limit = action[place], allowed[place]
        problem = f"element {', '.join(map(str, place))} of the action is {value:g}, and its limit is {limit:g}"
        sent = {"clip": allowed, "hold": sent, "refuse": None}[self.beyond]
        return sent, problem


@dataclass(frozen=True)
class Limits:
    """Limits in the robot's units, each a number for all elements of an action or one number per element; None sets no
    limit.

    low, high: the smallest and the largest allowed value.
    change: the largest allowed change of a value per second, relative to the last action that was sent. After a wait it
        is relative to the measured pose, if `Safety.pose` returns one. It does not apply to the first action of an
        episode, unless the runner has a measured pose or an idle action.
    beyond: what to do at a tick whose action exceeds a limit. "clip" sends the nearest action within the limits. "hold"
        repeats the last action, or sends nothing if there is none. "refuse" sends nothing.
    """

    low: ArrayLike | None = None
    high: ArrayLike | None = None
    change: ArrayLike | None = None
    beyond: Beyond = "clip"

    def make_bounds(self, shape: Sequence[int], rate: float, idle: Float32 | None) -> ActionBounds:
        """Return the limits for actions of a shape at `rate` ticks a second. Raises UserError if they exclude every
        action."""
        if self.beyond not in get_args(Beyond):
            raise UserError(
                f"limits have an unknown value of beyond, {self.beyond!r}",
                f"choose one of {', '.join(get_args(Beyond))}",
            )
        low, high = (
            _broadcast_limit("low", self.low, shape, -np.inf),
            _broadcast_limit("high", self.high, shape, np.inf),
        )
        change = _broadcast_limit("change", self.change, shape, np.inf)
        if (low > high).any():
            raise UserError(f"low {self.low!r} is above high {self.high!r}", "give low <= high for each element")
        if (change <= 0).any():
            raise UserError(f"change is {self.change!r}", "give units per second, above 0")
        if idle is not None and ((idle < low) | (idle > high)).any():
            raise UserError(f"the idle action {idle.tolist()} exceeds the limits", "give an idle action within them")
        return ActionBounds(low, high, change / np.float32(rate), self.beyond)


def _broadcast_limit(name: str, value: ArrayLike | None, shape: Sequence[int], default: float) -> Float32:
    fix = "give one number, or one per element"
    array = as_numbers(default if value is None else value, name, fix, np.float32)
    spread: Float32 = broadcast_to_samples(array, f"{name} {value!r}", shape, fix, axes=0)
    if np.isnan(spread).any():
        raise UserError(f"{name} {value!r} contains NaN", "give numbers")
    return spread
