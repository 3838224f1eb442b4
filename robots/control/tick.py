"""The action of a runner at a tick."""

from dataclasses import dataclass
from typing import Literal

from fewstep.robots.control.chunk import Float32

Source = Literal["planned", "late", "held", "stopped", "waiting"]


@dataclass(frozen=True)
class Action:
    """The action at a tick.

    value: the action in the robot's units, a copy that the caller may change. None if nothing is to be sent: while
        `source` is "waiting" or "stopped" and the runner has no `idle` action, or if the limits refuse the action.
    source: "planned": the action that the policy sampled for this tick. "late": the next sequence is overdue, and the
        current one continues. "held": the current sequence has ended, and its last action is repeated. "stopped": it
        was repeated `most_held` times. "waiting": no sequence exists yet.
    age: ticks since the observation on which the action is based.
    problem: the reason why this tick's observation or the last sample was not used, or the limit that changed the
        action; None without a problem.
    """

    value: Float32 | None
    source: Source
    age: int
    problem: str | None = None
